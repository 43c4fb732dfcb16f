"""A program that saves a training whose rows are on the fake accelerator, in both ways, and counts the copies."""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from device_step import CASES, LABELS, config_of, make_encoder, make_texts

from cxml.checkpoint import Progress, Saver, ShardReader, list_checkpoints, row_state
from cxml.config import CheckpointConfig
from cxml.parallel import Ranks
from cxml.preparation import prepare
from cxml.training import set_up, train_step
from cxml.tree import LabelTree, plan_splits, tree_url
from support.fake_accelerator import counted, fake_accelerator

row_state.PIECE_BYTES = 1 << 14  # many blocks


def main():
    case = next(case for case in CASES if case.name == sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch, fake_accelerator() as device:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        folder = Path(scratch)
        make_encoder(folder / "encoder")
        make_texts(folder / "raw")
        config = config_of(case, folder)
        prepare(config)
        tree = LabelTree(np.arange(LABELS, dtype=np.int32), plan_splits(LABELS, case.level_sizes).offsets)
        tree.save(tree_url(config), {})
        print(json.dumps(measure(config, Ranks(0, 1, 0, device), folder)))
        dist.destroy_process_group()


def measure(config, ranks, folder):
    state, schedule = set_up(config, ranks)
    state.engine.train()
    batches = state.loader.epoch(0)

    def step(number):
        with counted() as counts:
            schedule.apply(number)
            train_step(state.engine, next(batches), state.ranks, number + 1)
        return counts.totals() | counts.moved

    for number in range(3):
        step(number)
    rows = state.model.label_head.rows
    tensors = dict(vars(rows))
    found = {"device": rows.device.type, "rows": rows.num_bytes, "usual step": step(3), "ways": {}}
    for number, (way, free) in enumerate({"copy": 1 << 40, "blocks": 0}.items(), start=4):
        expected = {name: tensor.to("cpu", copy=True) for name, tensor in vars(rows).items()}
        snapshot = state.state_dict(Progress(step=number), {})
        saver = Saver(str(folder / way), CheckpointConfig(), ranks, free_memory=lambda free=free: free)
        with counted(in_all_threads=True) as counts:
            saver.start(snapshot)
            saver.wait()
        saver.close()
        on_device = [(name, part.nbytes) for name, pieces in snapshot.pieces.items()
                     for part in pieces.parts.values() if part.device == ranks.device]  # fmt: skip
        found["ways"][way] = {
            "moved": counts.moved,
            "pieces": sum(size for _, size in on_device),
            "of rows": sum(size for name, size in on_device if name.startswith("label")),
            "blocks": sum(name.startswith("labels/") and name.endswith("/weight") for name, _ in on_device),
            "stayed": all(getattr(rows, name) is tensor for name, tensor in tensors.items()),
            "next step": step(number),
            "loaded": load(list_checkpoints(str(folder / way))[0].url, state, expected),
        }
    with counted() as counts:
        blocks = list(state.model.label_head.export_rows())
    found["exported"] = {"moved": counts.moved, "bytes": sum(block[name].nbytes for block in blocks
                                                             for name in ("weight", "bias"))}  # fmt: skip
    return found


def load(url, state, expected):
    """Resume from a checkpoint. Returns the copies that it takes, and whether the rows are the expected ones."""
    fresh, _ = set_up(state.config, state.ranks)
    rows = fresh.model.label_head.rows
    with counted() as counts:
        fresh.load_state_dict(ShardReader(url))
    equal = all(torch.equal(getattr(rows, name).cpu(), values) for name, values in expected.items())
    return {"equal": equal, "moved": counts.moved, "device": rows.device.type}


if __name__ == "__main__":
    main()
