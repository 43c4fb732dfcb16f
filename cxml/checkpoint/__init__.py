"""Trained models on disk or in an object store.

    model -> weights as safetensors + a manifest with everything needed to rebuild it, written last -> model
Nothing is unpickled on the way back.
"""

from cxml.checkpoint.model_store import load_model, model_url, save_model

__all__ = ["load_model", "model_url", "save_model"]
