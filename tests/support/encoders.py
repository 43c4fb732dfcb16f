"""Tiny encoders of many architectures with random weights, and their tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedModel, PreTrainedTokenizerFast

LAYERS, WIDTH, VOCABULARY = 2, 16, 64
_BERT = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 48, "pad_token_id": 0,
}  # fmt: skip
_ROBERTA = _BERT | {"pad_token_id": 1, "max_position_embeddings": 50}  # 48 without the reserved ones
_DECODER = _BERT | {"num_key_value_heads": 1, "head_dim": 8, "bos_token_id": 2, "eos_token_id": 3}
_T5 = {"vocab_size": VOCABULARY, "d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": LAYERS, "num_heads": 2}
_BART = {
    "vocab_size": VOCABULARY, "d_model": WIDTH, "encoder_layers": LAYERS, "decoder_layers": LAYERS,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
    "max_position_embeddings": 48, "pad_token_id": 1,
}  # fmt: skip
_DEBERTA = {
    "relative_attention": True, "pos_att_type": "p2c|c2p", "position_biased_input": False, "position_buckets": 16,
    "norm_rel_ebd": "layer_norm", "share_att_key": True, "max_relative_positions": -1, "conv_kernel_size": 3,
    "conv_act": "gelu",
}  # fmt: skip
_XLM = {
    "vocab_size": VOCABULARY, "emb_dim": WIDTH, "n_layers": LAYERS, "n_heads": 2, "max_position_embeddings": 48,
    "pad_index": 0, "pad_token_id": 0,
}  # fmt: skip

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "albert": _BERT | {"embedding_size": 8},
    "bart": _BART,
    "bert": _BERT,
    "clip_text_model": _BERT,
    "deberta-v2": _BERT | _DEBERTA,
    "distilbert": {"vocab_size": VOCABULARY, "dim": WIDTH, "n_layers": LAYERS, "n_heads": 2, "hidden_dim": 32},
    "electra": _BERT | {"embedding_size": 8},
    "gpt2": {"vocab_size": VOCABULARY, "n_positions": 48, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2},
    "layoutlm": _BERT,
    "llama": _DECODER,
    "longformer": _ROBERTA | {"attention_window": 4},
    "mamba": {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "state_size": 4},
    "mistral": _DECODER | {"sliding_window": 4},
    "modernbert": _BERT | {"local_attention": 8, "cls_token_id": 2, "sep_token_id": 3},
    "mpnet": _ROBERTA,
    "nomic_bert": _BERT,
    "roberta": _ROBERTA,
    "t5": _T5,
    "xlm": _XLM,
    "xlnet": {"vocab_size": VOCABULARY, "d_model": WIDTH, "n_layer": LAYERS, "n_head": 2, "d_inner": 32},
}
"""Kinds whose features of a text do not depend on the padding of its batch, as the names of transformers."""

DEPEND_ON_PADDING: dict[str, dict[str, Any]] = {"convbert": _BERT | {"embedding_size": WIDTH}, "fnet": _BERT}
_OTHERS = {"big_bird": _BERT}


def save_encoder(folder: Path, kind: str, **changes: object) -> PreTrainedModel:
    """Save a model of a kind and a tokenizer of whole words. Returns the model, with visible attention."""
    torch.manual_seed(0)
    values = {**(ARCHITECTURES | DEPEND_ON_PADDING | _OTHERS)[kind], **changes}
    model = AutoModel.from_config(CONFIG_MAPPING[kind](**values)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.2)
    model.save_pretrained(folder)
    save_tokenizer(folder, VOCABULARY)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))  # as in files that transformers did not write
    return model


def save_tokenizer(folder: Path, size: int, **tokens: str | None) -> None:
    """Save a tokenizer of the words `a0`, `a1` and so on with [CLS] and [SEP], `size` tokens in all."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: place for place, word in enumerate([*special, *(f"a{i}" for i in range(size - len(special)))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **(names | tokens)).save_pretrained(folder)
