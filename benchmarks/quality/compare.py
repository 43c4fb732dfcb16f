"""Compares one model of CascadeXML with widely used systems on the same split: metrics, time, memory, size.

    python benchmarks/quality/compare.py --config configs/icd10cm.yaml
    python benchmarks/quality/compare.py --config configs/wordnet.yaml --data.source.path FOLDER
    python benchmarks/quality/compare.py --config configs/eurlex57k.yaml --data.source.path FOLDER
    python benchmarks/quality/compare.py --quick

The benchmark trains the run of the config, or continues it (options of `python -m cxml.train` may follow), and
evaluates it. The peers get the same training texts, as the prepared tf-idf or the prepared tokens. They are omikuji as
Parabel and as Bonsai, PECOS XR-Linear, each with its own defaults in a venv of its own, and the nearest label centroid
by the untrained encoder. `--xr-transformer EPOCHS` adds PECOS XR-Transformer on the same encoder and at most as many
tokens of a text as the run reads; it takes hours on a CPU. The results of a peer are stored and not computed again.

`--propensity-ranking POWER` adds a row for the model whose scores are multiplied by that power of the inverse
propensity. A model with other evidence beside its cascade has a row for the cascade alone. For public data sets the
published figures follow (`benchmarks/support/published.py`). micro-F1 uses the threshold chosen on validation texts,
and is missing where there are none. The last line is JSON: P@1 of our best row against that of the best peer. The goal
also asks for one row that is ahead of every peer in every column that the peer has.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import sparse

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from support.closing_line import print_closing_line  # noqa: E402
from support.configs import config_of  # noqa: E402
from support.peers import LINEAR, PEERS_FOLDER, SCRIPTS, XR_TRANSFORMER, linear_command, peer_python  # noqa: E402
from support.published import PUBLISHED  # noqa: E402
from support.train_records import train_records  # noqa: E402

from cxml.checkpoint import model_url  # noqa: E402
from cxml.comparison import OWN, Comparison  # noqa: E402
from cxml.config import Config  # noqa: E402
from cxml.console import set_up_logging  # noqa: E402
from cxml.data import DataManifest, ShardedDataset, data_url, resolve_encoder  # noqa: E402
from cxml.metrics import metric_sums  # noqa: E402
from cxml.pipeline import run  # noqa: E402
from cxml.prediction import Predictor  # noqa: E402
from cxml.preparation import prepare  # noqa: E402
from cxml.training.evaluation import propensity_weights  # noqa: E402

K = 5
COLUMNS = ["P@1", "P@3", "P@5", "PSP@1", "PSP@3", "PSP@5"]
ALL_COLUMNS = ["P@1", "P@3", "P@5", "RP@5", "nDCG@5", "micro-F1", "PSP@1", "PSP@3", "PSP@5"]
COSTS = {"train, min": ("train_s", 60, ".1f"), "peak, GiB": ("peak_bytes", 2**30, ".1f"),
         "predict, texts/s": ("texts_per_s", 1, ",.0f"), "model, MB": ("model_bytes", 1e6, ",.0f")}  # fmt: skip
QUICK = [
    "--data.source.chapters", "3", "--tree.level-sizes", "8", "64", "--train.epochs", "2", "--optim.decay-epochs", "1",
    "--model.freeze-layers", "5", "--optim.encoder-lr", "3e-4", "--optim.classifier-lr", "0.01",
]  # fmt: skip


def main() -> None:
    """Parse, run the peers and the config, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small chapter of ICD-10-CM, three peers: under 50 s")
    parser.add_argument("--config", default=str(ROOT / "configs" / "icd10cm.yaml"))
    parser.add_argument("--peers", type=Path, default=PEERS_FOLDER, help="folder of the venvs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers-only", action="store_true", help="print the peers' rows only; train no model of cxml")
    parser.add_argument("--xr-transformer", type=int, metavar="EPOCHS", help="epochs per level; adds XR-Transformer")
    parser.add_argument("--propensity-ranking", type=float, metavar="POWER", help="add a row for this ranking")
    options, rest = parser.parse_known_args()
    quick = [*QUICK, "--output", "runs/benchmarks/quality-quick"] if options.quick else []
    words = ["--config", options.config, "--evaluate.no-baseline", *quick, *rest]
    config = config_of("compare.py", words)
    set_up_logging(is_main=True)
    prepare(config)
    folder = write_inputs(config)
    peers = {name: linear_command(options.peers, name) for name in LINEAR}
    peers["MiniLM, nearest centroid"] = [sys.executable, str(SCRIPTS / "centroids.py"), config.model.encoder]
    if options.xr_transformer:
        settings = [resolve_encoder(config.model.encoder), str(options.xr_transformer), str(config.data.max_length)]
        python = peer_python(options.peers, "xr-transformer", XR_TRANSFORMER)
        peers["PECOS XR-Transformer"] = [python, str(SCRIPTS / "xr_transformer.py"), *settings]
    systems = {name: peer(config, folder, name, command, options.threads) for name, command in peers.items()}
    if options.peers_only:
        return print_table(systems)
    systems |= PUBLISHED.get(Path(options.config).stem, {})
    ours = own(config)
    if options.propensity_ranking:
        (name,) = Comparison(propensity_rankings=(options.propensity_ranking,)).variants()
        # A chosen threshold holds for unchanged scores only.
        of_scores = {key: value for key, value in ours[OWN].items() if key != "micro-F1"}
        ours[name] = {**of_scores, **ranked_metrics(config, options.propensity_ranking)}
    print_table({**ours, **systems})
    return print_comparison(ours, systems)


def write_inputs(config: Config) -> Path:
    """Write what the peers read beside the run, if it is not there, and return the folder."""
    folder = Path(config.output) / "peers"
    if (folder / "ready").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        dataset = ShardedDataset(data_url(config), split)
        sparse.save_npz(folder / f"{split}_features.npz", dataset.features_csr())
        sparse.save_npz(folder / f"{split}_labels.npz", dataset.labels_csr())
        tokens, pad = dataset.column("input_ids"), dataset.manifest.tokenizer.pad_id
        (folder / f"{split}_texts.json").write_text(json.dumps(dataset.texts(np.arange(len(dataset)))))
        np.savez(folder / f"{split}_tokens.npz", values=tokens.values, offsets=tokens.offsets, pad_id=pad)
    (folder / "ready").touch()
    return folder


def peer(config: Config, folder: Path, name: str, command: list[str], threads: int) -> dict[str, Any]:
    """Metrics and costs of a peer."""
    out = peer_folder(folder, name)
    if not (out / "costs.json").exists():
        out.mkdir(exist_ok=True)
        with (out / "log.txt").open("w") as log:
            words = [*command, str(folder), str(out), str(threads), str(K)]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=log, text=True)
        (out / "costs.json").write_text(done.stdout.splitlines()[-1])
    metrics = metrics_of(config, np.load(out / "predicted.npy"))
    num_texts = DataManifest.read(data_url(config)).rows("test")
    costs = json.loads((out / "costs.json").read_text())
    return {**metrics, **costs, "texts_per_s": num_texts / costs["predict_s"]}


def peer_folder(folder: Path, name: str) -> Path:
    """Folder of a peer's model and results."""
    return folder / name.replace(",", "").replace(" ", "-")


def metrics_of(config: Config, labels: np.ndarray) -> dict[str, float]:
    """Metrics of predicted label ids, int [M, K], on the test split, in percent."""
    truth = ShardedDataset(data_url(config), "test").labels_csr()
    return metric_sums(labels, truth, (1, 3, 5), propensity_weights(config)).result()


def own(config: Config) -> dict[str, dict[str, Any]]:
    """Metrics and costs of the run of `config`; where it has other evidence, also metrics of its cascade alone.

    Prediction is timed on texts of the test split.
    """
    metrics = run(dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, top_k=(1, 3, 5))))
    steps = train_records(config.output)
    predictor = Predictor.from_checkpoint(config.output)
    test = ShardedDataset(data_url(config), "test")
    texts = test.texts(np.arange(min(5000, len(test))))
    began = time.perf_counter()
    predictor.predict(texts, k=K)
    speed = len(texts) / (time.perf_counter() - began)
    files = Path(model_url(config)).rglob("*")
    decisions = metrics["decisions"]["metrics"]
    found = {
        **metrics["levels"][-1],
        **({"micro-F1": decisions["micro-f1"]["micro-F1"]} if "micro-f1" in decisions else {}),
        "train_s": steps[-1]["seconds"],
        "peak_bytes": 2**30 * max(line["memory_gib"] for line in steps),
        "texts_per_s": speed,
        "model_bytes": sum(file.stat().st_size for file in files if file.is_file()),
    }
    return {OWN: found, **({f"{OWN}, cascade alone": metrics["evidence"]["cascade"]} if "evidence" in metrics else {})}


def ranked_metrics(config: Config, power: float) -> dict[str, float]:
    """Metrics of the run's model when labels are ranked by score times a power of the inverse propensity."""
    test = ShardedDataset(data_url(config), "test")
    predictor = Predictor.from_checkpoint(config.output, propensity_ranking=power)
    return metrics_of(config, predictor.predict_tokens(test.column("input_ids"), K).labels)


def print_table(systems: dict[str, dict[str, Any]]) -> None:
    """Print a row for each system; unknown figures are left empty."""
    table = Table("", *ALL_COLUMNS, *COSTS)
    for name, found in systems.items():
        numbers = [f"{found[column]:.2f}" if column in found else "" for column in ALL_COLUMNS]
        costs = [f"{found[key] / unit:{form}}" if key in found else "" for key, unit, form in COSTS.values()]
        table.add_row(name, *numbers, *costs)
    Console(width=180).print(table)


def print_metrics(found: dict[str, dict[str, float]]) -> None:
    """Print a row of metrics for each entry of `found`."""
    table = Table("", *COLUMNS)
    for name, metrics in found.items():
        table.add_row(name, *(f"{metrics[column]:.2f}" for column in COLUMNS))
    Console(width=140).print(table)


def print_comparison(ours: dict[str, dict[str, Any]], peers: dict[str, dict[str, Any]]) -> None:
    """Print the closing line."""
    best = {
        column: max(found[column] for found in peers.values() if column in found)
        for column in ALL_COLUMNS
        if any(column in found for found in peers.values())
    }
    is_ahead = any(all(found.get(column, 0.0) > best[column] for column in best) for found in ours.values())
    own_best = max(found["P@1"] for found in ours.values())
    print_closing_line("quality", own_best, "P@1, %", best["P@1"], goal=1.0, provided=is_ahead)


if __name__ == "__main__":
    main()
