"""Uses the folders named on standard input, each in a forked process with limits, and prints the outcomes.

Each input line is a JSON list [kind, folder]. The first folder of each kind must be intact. An output line is a list
[outcome, details]: `result` and a digest, `refused` and the error's text, `raised` and the end of a traceback, or
`killed` and the name of a signal.
"""

import contextlib
import hashlib
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable

import numpy as np

from cxml.checkpoint import ShardReader
from cxml.data import DataManifest, ShardedDataset, read_label_table
from cxml.errors import CxmlError
from cxml.prediction import Predictor
from cxml.tree import LabelTree

TEXTS = ["anaemia of newborn", "haemophilia", "disorders of the spleen, unspecified", "a"]
MOST_BYTES = 2 << 30
MOST_SECONDS = 60


def use_data(folder: str) -> list[object]:
    """Read everything of every split."""
    labels = read_label_table(folder)
    found: list[object] = [labels.names, labels.frequency]
    for split in DataManifest.read(folder).splits:
        dataset = ShardedDataset(folder, split)
        rows = np.arange(len(dataset))[::-1]
        ids, labels = dataset.gather(rows)
        found += [ids.values, labels.values, labels.offsets, dataset.texts(rows), dataset.uids()]
        for matrix in (dataset.labels_csr(), dataset.features_csr(), dataset.features(rows)):
            matrix.sum(0)
            found += [matrix.indices, matrix.data, matrix.T.tocsr().indptr]
    return found


def use_tree(folder: str) -> list[object]:
    """Read all arrays."""
    tree = LabelTree.load(folder)
    return [tree.label_order, *tree.offsets, *(tree.label_offsets(level) for level in range(len(tree.offsets)))]


def use_checkpoint(folder: str) -> list[object]:
    """Predict, and read every tensor."""
    reader = ShardReader(folder)
    tensors = [reader.tensor(name).view(-1).numpy() for name in sorted(reader.manifest.tensors)]
    return [*predict(Predictor.from_checkpoint(folder)), *tensors]


def use_model(folder: str) -> list[object]:
    """Predict."""
    return predict(Predictor.from_checkpoint(folder))


def use_export(folder: str) -> list[object]:
    """Predict with label rows in memory, and with mapped ones."""
    return [part for is_mapped in (False, True)
            for part in predict(Predictor.from_pretrained(folder, memory_map=is_mapped))]  # fmt: skip


def predict(predictor: Predictor) -> list[object]:
    found = predictor.predict(TEXTS, 4)
    return [found.labels, found.scores, [predictor.names[label] for label in found.labels[0] if label >= 0]]


USES: dict[str, Callable[[str], list[object]]] = {
    "data": use_data, "tree": use_tree, "checkpoint": use_checkpoint, "model": use_model, "export": use_export,
}  # fmt: skip


def digest(parts: list[object]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return found.hexdigest()


def used_in_a_child(kind: str, folder: str) -> tuple[str, str]:
    """Use the folder in a forked process. Returns the outcome and its details."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with contextlib.suppress(BaseException):
            os.write(writing, json.dumps(ending(kind, folder)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        answer = stream.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "killed", signal.Signals(os.WTERMSIG(status)).name
    return tuple(json.loads(answer))


def ending(kind: str, folder: str) -> tuple[str, str]:
    """In the forked process: use the folder within limits of memory and time. Returns the outcome."""
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: PTH123, SIM115
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, used + MOST_BYTES))
    signal.alarm(MOST_SECONDS)
    try:
        return "result", digest(USES[kind](folder))
    except CxmlError as error:
        return "refused", str(error)
    except BaseException:
        return "raised", traceback.format_exc()[-1500:]


def main() -> None:
    known: set[str] = set()
    for line in sys.stdin:
        kind, folder = json.loads(line)
        if kind not in known:
            USES[kind](folder)  # forked processes then share its imports and compiled code
            known.add(kind)
        print(json.dumps(used_in_a_child(kind, folder)), flush=True)


if __name__ == "__main__":
    main()
