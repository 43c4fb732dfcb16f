"""Models with random weights, made in a second, for tests that do not depend on what a model has learnt."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from cxml.config import HeadConfig
from cxml.data import resolve_encoder
from cxml.model import build_model
from cxml.parallel import Exchange, RowLayout, leaf_offsets_of
from cxml.prediction import PackedRows, Parts, write_exported
from cxml.prediction.packed_rows import prediction_head
from cxml.tree import LabelTree, plan_splits
from support.runs import MINILM, make_encoder, small_config


def untrained_export(folder: Path, names: list[str]) -> str:
    """Export a model of labels with these names and 4 clusters to a folder inside `folder`. Returns its path."""
    tree = LabelTree(np.arange(len(names), dtype=np.int32), plan_splits(len(names), (4,)).offsets)
    parts = untrained_parts(folder / "run", make_encoder(folder / "encoder"), tree, names, shortlist_sizes=(2,))
    write_exported(str(folder / "exported"), parts)
    return str(folder / "exported")


def untrained_parts(
    output: Path, encoder: str, tree: LabelTree, names: list[str], *, candidates: str = "shortlist", **model: object
) -> Parts:
    """A model of labels with these names over a tree. `model` are fields of the config's section."""
    levels = len(tree.level_sizes)
    config = small_config(
        output, encoder, tree={"level_sizes": tree.level_sizes[:-1]}, model={"dropouts": (0.0,) * levels, **model}
    )
    config = dataclasses.replace(config, head=HeadConfig(candidates=candidates))
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(len(names), config.model.label_width(32))).astype(np.float32)
    rows = PackedRows(weight, np.zeros(0, np.float32), np.zeros(len(names), np.float32))
    layout = RowLayout.round_robin(leaf_offsets_of(tree.offsets, tree.num_labels), 0, 1)
    torch.manual_seed(0)
    alone = Exchange(is_alone=True)
    scores_all = candidates == "all"
    cascade = build_model(
        config.model, tree, make_levels=lambda _: ((), prediction_head(rows, layout, alone, scores_all=scores_all))
    )
    tokenizer = Tokenizer.from_file(str(Path(resolve_encoder(MINILM)) / "tokenizer.json"))
    facts: dict[str, object] = {"fingerprint": "untrained", "metrics": {}, "tokenizer": "0"}
    return Parts(
        model=cascade.eval(), tree=tree, layout=layout, rows=rows, names=names, tokenizer=tokenizer, pad_id=0,
        config=config, facts=facts,
    )  # fmt: skip
