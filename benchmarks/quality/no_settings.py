"""Compares a run without settings with a tuned config and with linear models, on held-out training texts.

    python benchmarks/quality/no_settings.py --data.source.chapters 9 10 [--share 0.5] [--seeds 2]
    python benchmarks/quality/no_settings.py --quick

A fifth of the training texts is held out; the test texts are not used. The config of the run without settings names the
data and nothing else. The tuned run has the settings of `--config`, except for the sizes of the tree, which follow from
the number of labels. Options of `python -m cxml.train` that follow hold for both. omikuji's Parabel and Bonsai get the
same texts as tf-idf. Finished runs are not repeated. The last line is JSON: P@5 without settings against that of the
tuned run. The goal allows a loss of half a point.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from quality.compare import peer, write_inputs
from quality.held_out import METRICS, cells, metrics, parsed, parser_of
from support.closing_line import print_closing_line
from support.configs import config_of
from support.peers import PEERS_FOLDER, linear_command

from cxml.config import Config, config_to_dict
from cxml.config_files import dump_config
from cxml.data import data_url

OURS, TUNED = "no settings", "tuned"
PEERS = ("omikuji, Parabel", "omikuji, Bonsai")
QUICK_RUN = ["--train.epochs", "2", "--model.freeze-layers", "5"]  # as long as the tuned run of `--quick`
POINTS = 0.5
P_AT_5 = METRICS.index("P@5")


def main() -> None:
    """Parse, train, print."""
    parser = parser_of(__doc__, "no-settings")
    parser.add_argument("--peers", type=Path, default=PEERS_FOLDER, help="folder of the venvs")
    parser.add_argument("--threads", type=int, default=2, help="threads of the linear models")
    _, both = parser.parse_known_args()
    options, tuned = parsed(parser, "--auto", "tree.level_sizes")
    part = config_of("no_settings.py", [*tuned, "--output", str(options.folder)])
    bare = ["--config", bare_config(part, options.folder), *both, *(QUICK_RUN if options.quick else [])]
    found = {
        name: np.array([metrics(words, options.folder / folder, seed) for seed in range(options.seeds)])
        for name, words, folder in ((OURS, bare, "none/run"), (TUNED, tuned, "tuned/run"))
    }
    inputs = write_inputs(part)
    for name in PEERS:
        costs = peer(part, inputs, name, linear_command(options.peers, name), options.threads)
        found[name] = np.array([[costs[metric] for metric in METRICS]])
    report(found)


def bare_config(part: Config, folder: Path) -> str:
    """Write a config file that names the data of `part` and nothing else; return its path."""
    source = config_to_dict(part)["data"]["source"]
    file = folder / "no-settings.yaml"
    file.write_text(dump_config({"output": str(folder), "data": {"source": source, "directory": data_url(part)}}))
    return str(file)


def report(found: dict[str, np.ndarray]) -> None:
    """Print the table and the closing line. `found` has metrics, [seeds, METRICS], of each name."""
    table = Table("", *METRICS)
    for name, values in found.items():
        table.add_row(name, *cells(values, signed=False))
    Console(width=140).print(table)
    ours, tuned = (float(found[name][:, P_AT_5].mean()) for name in (OURS, TUNED))
    print_closing_line("no_settings", ours, "P@5, %", tuned, goal=1 - POINTS / tuned)


if __name__ == "__main__":
    main()
