"""Ranks labels by the nearest label centroid, which shows the quality of the encoder alone, without training.

    python centroids.py ENCODER FOLDER OUT THREADS K

The arguments are those of linear_models.py. FOLDER also holds train_tokens.npz and test_tokens.npz (values, offsets,
pad_id). A text's vector is the mean of the encoder's last layer, scaled to norm 1. A label's vector is the mean of its
training texts' vectors, scaled to norm 1. Labels are ranked by cosine.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from peak_memory import peak_bytes
from scipy import sparse
from transformers import AutoModel

from cxml.data import Ragged, collate, resolve_encoder

BATCH = 64


def main() -> None:
    """Embed, average, rank, report."""
    encoder, folder, out, threads, k = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = AutoModel.from_pretrained(resolve_encoder(encoder)).eval()
    labels = sparse.load_npz(Path(folder, "train_labels.npz")).tocsr()
    began = time.perf_counter()
    vectors = embed(model, Path(folder, "train_tokens.npz"))
    sums = torch.from_numpy(labels.T.astype(np.float32) @ vectors.numpy())
    centroids = torch.nn.functional.normalize(sums, dim=1)
    training = time.perf_counter() - began
    np.save(Path(out, "centroids.npy"), centroids.numpy())
    began = time.perf_counter()
    tests = embed(model, Path(folder, "test_tokens.npz"))
    best = [(part @ centroids.T).topk(int(k), dim=1).indices for part in tests.split(BATCH)]
    prediction = time.perf_counter() - began
    np.save(Path(out, "predicted.npy"), torch.cat(best).numpy())
    size = sum(parameter.nbytes for parameter in model.parameters()) + centroids.nbytes
    print(json.dumps({"train_s": training, "predict_s": prediction, "model_bytes": size, "peak_bytes": peak_bytes()}))


@torch.inference_mode()
def embed(model: torch.nn.Module, file: Path) -> torch.Tensor:
    """Vectors of all texts in a file, float32 [N, D], in the order of the texts."""
    stored = np.load(file)
    tokens = Ragged(stored["values"], stored["offsets"])
    order = np.argsort(tokens.lengths, kind="stable")
    found = []
    for start in range(0, len(order), BATCH):
        own = tokens.take(order[start : start + BATCH])
        nothing = Ragged.from_lists([[] for _ in range(len(own))])
        batch = collate(own, nothing, pad_id=int(stored["pad_id"]), global_size=len(own))
        states = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        mask = batch.attention_mask[:, :, None].float()
        found.append(torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1))
    vectors = torch.cat(found)
    placed = torch.empty_like(vectors)
    placed[torch.from_numpy(order)] = vectors
    return placed


if __name__ == "__main__":
    main()
