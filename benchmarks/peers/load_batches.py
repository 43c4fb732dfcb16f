"""Loads one shuffled epoch of batches in a fresh process and prints the speed.

    python load_batches.py cxml|torch-WORKERS|mosaic-WORKERS|write-mosaic|first DATA_URL MOSAIC_FOLDER PEERS BATCH

Prints one line of JSON: examples_per_second, or seconds.
"""

import importlib.machinery
import json
import sys
import time
import types
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from cxml.data import Batch, Ragged, ShardedDataset, TrainLoader, collate

PAD = 0
_WARM_UP = 20


def main() -> None:
    """Make the loader, run it, report."""
    way, url, mosaic, peers, size = sys.argv[1:]
    torch.set_num_threads(1)
    kind, _, workers = way.partition("-")
    if way == "write-mosaic":
        write_mosaic(url, mosaic, peers)
        print(json.dumps({"seconds": 0}))
    elif way == "first":
        start = time.perf_counter()
        next(iter(cxml_loader(url, int(size))))
        print(json.dumps({"seconds": time.perf_counter() - start}))
    elif kind == "cxml":
        report(cxml_loader(url, int(size)))
    elif kind == "torch":
        report(torch_loader(url, int(size), int(workers)))
    else:
        report(mosaic_loader(mosaic, peers, int(size), int(workers)))


def report(batches: Iterable[Batch]) -> None:
    """Print examples per second after the first batches, which excludes the start of workers."""
    seen = 0
    start = time.perf_counter()
    for number, batch in enumerate(batches):
        if number == _WARM_UP:
            seen, start = 0, time.perf_counter()
        seen += batch.size
    print(json.dumps({"examples_per_second": seen / (time.perf_counter() - start)}))


def cxml_loader(url: str, size: int) -> Iterator[Batch]:
    """Loader of this project, for one rank."""
    loader = TrainLoader(
        ShardedDataset(url, "train"), batch_size=size, seed=0, rank=0, world_size=1, accumulation=1, pad_id=PAD
    )
    for micro_batches in loader.epoch(0):
        yield from micro_batches


class Rows(Dataset):
    """Single rows from the same memory-mapped columns."""

    def __init__(self, url: str) -> None:
        dataset = ShardedDataset(url, "train")
        self.input_ids, self.labels = dataset.column("input_ids"), dataset.column("labels")

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.input_ids)

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and labels of one row."""
        ids, labels = self.input_ids, self.labels
        return (
            ids.values[ids.offsets[row] : ids.offsets[row + 1]],
            labels.values[labels.offsets[row] : labels.offsets[row + 1]],
        )


def ragged(rows: Sequence[np.ndarray]) -> Ragged:
    """Concatenate arrays."""
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return Ragged(np.concatenate(rows), offsets)


def collate_pairs(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Batch:
    """Collate rows into a padded batch."""
    ids, labels = zip(*pairs, strict=True)
    return collate(ragged(ids), ragged(labels), pad_id=PAD, global_size=len(pairs))


def torch_loader(url: str, size: int, workers: int) -> Iterable[Batch]:
    """PyTorch's DataLoader, shuffled."""
    return DataLoader(Rows(url), batch_size=size, shuffle=True, num_workers=workers, collate_fn=collate_pairs)


def import_streaming(peers: str) -> types.ModuleType:
    """Import mosaicml-streaming without torchvision, which only its image classes need."""
    for name, classes in {
        "torchvision": (), "torchvision.datasets": ("VisionDataset",), "torchvision.transforms": (),
        "torchvision.transforms.functional": ("to_tensor",),
    }.items():  # fmt: skip
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        for class_ in classes:
            setattr(module, class_, type(class_, (), {}))
        sys.modules[name] = module
    sys.path.append(peers)
    import streaming  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    return streaming


def write_mosaic(url: str, folder: str, peers: str) -> None:
    """Write the same rows in mosaicml-streaming's format."""
    streaming = import_streaming(peers)
    rows = Rows(url)
    with streaming.MDSWriter(out=folder, columns={"ids": "ndarray:int32", "labels": "ndarray:int32"}) as writer:
        for row in range(len(rows)):
            ids, labels = rows[row]
            writer.write({"ids": ids, "labels": labels})


def collate_samples(samples: Sequence[dict[str, np.ndarray]]) -> Batch:
    """Collate mosaicml-streaming's samples into a padded batch."""
    return collate_pairs([(sample["ids"], sample["labels"]) for sample in samples])


def mosaic_loader(folder: str, peers: str, size: int, workers: int) -> Iterable[Batch]:
    """mosaicml-streaming's data set in PyTorch's DataLoader, shuffled."""
    streaming = import_streaming(peers)
    dataset = streaming.StreamingDataset(local=folder, shuffle=True, batch_size=size)
    return DataLoader(dataset, batch_size=size, num_workers=workers, collate_fn=collate_samples)


if __name__ == "__main__":
    main()
