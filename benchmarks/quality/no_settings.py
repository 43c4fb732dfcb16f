"""Compares a run without settings with linear models and with a tuned config, on held-out training texts.

    python benchmarks/quality/no_settings.py --set summaries      # or operations: made from installed packages
    python benchmarks/quality/no_settings.py --table FILE         # any table that `cxml train FILE` reads
    python benchmarks/quality/no_settings.py --config configs/wordnet.yaml --data.source.path FOLDER [--share 0.5]
    python benchmarks/quality/no_settings.py --quick

A fifth of the training texts is held out; the test texts are not used. The config of the run without settings names the
data and nothing else. The peers are omikuji as Parabel and as Bonsai and PECOS XR-Linear, each with its own defaults,
on tf-idf of the same texts, and, without `--quick`, the nearest label centroid by the untrained encoder.

With `--config`, a run with the settings of this config follows, except for the sizes of the tree, which follow from the
number of labels. Options of `python -m cxml.train` that follow hold for both runs; `--seeds` repeats them. `--set`
makes a small table (`benchmarks/support/package_texts.py`). A table has no tuned run. Finished runs are not repeated.

The last line is JSON: P@5 without settings against the best peer. The goal is to be ahead of all peers in all columns,
and to lose at most half a point of P@5 against the tuned run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from quality.compare import peer, write_inputs
from quality.held_out import cells, held_out, metrics, parsed_without_data, parser_of
from support.closing_line import print_closing_line
from support.configs import config_of
from support.package_texts import SETS, write_table
from support.peers import LINEAR, PEERS_FOLDER, SCRIPTS, linear_command

from cxml.config import Config, config_to_dict
from cxml.config_files import dump_config
from cxml.console import set_up_logging
from cxml.data import data_url

OURS, TUNED = "no settings", "tuned"
COLUMNS = ("P@1", "P@3", "P@5", "nDCG@5", "PSP@1", "PSP@3", "PSP@5")
P_AT_5 = COLUMNS.index("P@5")
QUICK_RUN = ["--train.epochs", "2", "--model.freeze-layers", "5", "--train.keep", "last"]  # as the tuned run
POINTS = 0.5


def main() -> None:
    """Parse, train, print."""
    parser = parser_of(__doc__, "no-settings")
    table = parser.add_mutually_exclusive_group()
    table.add_argument("--set", choices=SETS, help="use this data set from installed packages instead of --config")
    table.add_argument("--table", type=Path, help="use this file of texts and labels instead of --config")
    parser.add_argument("--peers", type=Path, default=PEERS_FOLDER, help="folder of the venvs")
    parser.add_argument("--threads", type=int, default=2, help="threads of the linear models")
    options, both = parser.parse_known_args()
    if options.set or options.table:
        set_up_logging(is_main=True)
        given = ["--config", table_config(options), *both]
        bare, runs = [*given, "--data.directory", held_out(given, options.folder, options.share)], {}
        part = config_of("no_settings.py", [*bare, "--output", str(options.folder)])
    else:
        options, tuned = parsed_without_data(parser, "--auto", "tree.level_sizes")
        tuned += ["--data.directory", held_out(tuned, options.folder, options.share)]
        part = config_of("no_settings.py", [*tuned, "--output", str(options.folder)])
        bare = ["--config", bare_config(part, options.folder), *both, *(QUICK_RUN if options.quick else [])]
        runs = {TUNED: (tuned, "tuned/run")}
    peers = peer_metrics(part, options)
    found = {
        name: np.array([metrics(words, options.folder / folder, seed, COLUMNS) for seed in range(options.seeds)])
        for name, (words, folder) in {OURS: (bare, "none/run"), **runs}.items()
    }
    report(found, peers)


def table_config(options: argparse.Namespace) -> str:
    """Write a config that names the table, and with `--set` the table itself; return the config's path."""
    options.folder = options.folder / (options.set or options.table.stem)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.set:
        write_table(options.set, options.folder / f"{options.set}.csv")
    table = options.table or options.folder / f"{options.set}.csv"
    return write_config({"kind": "table", "path": str(table.absolute())}, options.folder)


def bare_config(part: Config, folder: Path) -> str:
    """Write a config file that names the data of `part` and nothing else; return its path."""
    return write_config(config_to_dict(part)["data"]["source"], folder, directory=data_url(part))


def write_config(source: dict[str, object], folder: Path, **data: str) -> str:
    """Write a config with this section `data` and no settings; return its path."""
    file = folder / "no-settings.yaml"
    file.write_text(dump_config({"output": str(folder), "data": {"source": source, **data}}))
    return str(file)


def peer_metrics(part: Config, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Metrics [1, COLUMNS] of each peer on the data of `part`."""
    inputs = write_inputs(part)
    commands = {name: linear_command(options.peers, name) for name in LINEAR}
    if not options.quick:
        commands["MiniLM, nearest centroid"] = [sys.executable, str(SCRIPTS / "centroids.py"), part.model.encoder]
    rows = {name: peer(part, inputs, name, command, options.threads) for name, command in commands.items()}
    return {name: np.array([[row[column] for column in COLUMNS]]) for name, row in rows.items()}


def report(found: dict[str, np.ndarray], peers: dict[str, np.ndarray]) -> None:
    """Print the table and the closing line. Both have metrics, [seeds, COLUMNS], of each name."""
    table = Table("", *COLUMNS)
    for name, values in {**found, **peers}.items():
        table.add_row(name, *cells(values, signed=False))
    Console(width=160).print(table)
    ours, best = found[OURS].mean(0), np.concatenate(list(peers.values())).max(0)
    holds = bool((ours > best).all())
    if TUNED in found:
        holds &= ours[P_AT_5] >= found[TUNED].mean(0)[P_AT_5] - POINTS
    print_closing_line(
        "no_settings", float(ours[P_AT_5]), "P@5, %", float(best[P_AT_5]), goal=1.0, provided=bool(holds)
    )


if __name__ == "__main__":
    main()
