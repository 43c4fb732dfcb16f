"""Trains PECOS's XR-Transformer on the same encoder and ranks the test texts' labels; runs in its own venv.

    python xr_transformer.py ENCODER_FOLDER EPOCHS MAX_LENGTH FOLDER OUT THREADS K

FOLDER holds train_features.npz, train_labels.npz, test_features.npz, and train_texts.json and test_texts.json, which
are lists of strings. The settings are PECOS's defaults, with three exceptions: EPOCHS passes per level of its tree,
batches of 32 texts, and a length in tokens that fits 99 % of the texts but is at most MAX_LENGTH, since PECOS pads and
cuts all texts to one length. The script writes and prints what linear_models.py does.
"""

import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
import torch
from linear_models import ranked
from peak_memory import peak_bytes
from pecos.xmc import Indexer, LabelEmbeddingFactory  # pyright: ignore
from pecos.xmc.xtransformer.model import XTransformer  # pyright: ignore
from pecos.xmc.xtransformer.module import MLProblemWithText  # pyright: ignore
from scipy import sparse
from transformers import AutoTokenizer

BATCH, BEAM = 32, 10


def main() -> None:
    """Load, train, predict, report."""
    encoder, epochs, max_length, folder, out, threads, k = sys.argv[1:]
    logging.basicConfig(level=logging.INFO)  # logs its steps and losses
    torch.set_num_threads(int(threads))
    names = ("train_features", "train_labels", "test_features")
    train, labels, test = (sparse.load_npz(Path(folder, f"{each}.npz")).tocsr().astype(np.float32) for each in names)
    texts, test_texts = (json.loads(Path(folder, f"{split}_texts.json").read_text()) for split in ("train", "test"))
    longest = min(length_of(encoder, texts), int(max_length))
    began = time.perf_counter()
    chain = Indexer.gen(LabelEmbeddingFactory.create(labels, train, method="pifa"), threads=int(threads))
    matcher = {"model_shortcut": encoder, "num_train_epochs": int(epochs), "batch_size": BATCH, "batch_gen_workers": 1,
               "save_steps": 10**9, "logging_steps": 100, "use_gpu": False}  # fmt: skip
    model = XTransformer.train(
        MLProblemWithText(texts, labels, X_feat=train),
        clustering=chain,
        train_params=XTransformer.TrainParams.from_dict({"matcher_params_chain": matcher}, recursive=True),
        pred_params=XTransformer.PredParams.from_dict(
            {"matcher_params_chain": {"truncate_length": longest}}, recursive=True
        ),
        beam_size=BEAM,
    )
    training = time.perf_counter() - began
    model.save(str(Path(out, "model")))
    began = time.perf_counter()
    found = model.predict(
        test_texts, X_feat=test, beam_size=BEAM, only_topk=int(k), batch_size=BATCH, batch_gen_workers=1, use_gpu=False,
        threads=int(threads),
    ).tocsr()  # fmt: skip
    prediction = time.perf_counter() - began
    np.save(Path(out, "predicted.npy"), ranked(found, int(k)))
    size = sum(file.stat().st_size for file in Path(out, "model").rglob("*") if file.is_file())
    print(json.dumps({"train_s": training, "predict_s": prediction, "model_bytes": size, "peak_bytes": peak_bytes()}))


def length_of(encoder: str, texts: list[str]) -> int:
    """Smallest length in tokens that fits 99 % of the texts."""
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    return int(np.percentile([len(ids) for ids in tokenizer(texts[:20_000])["input_ids"]], 99))


if __name__ == "__main__":
    main()
