"""Measures how long training takes until the model is as good as PECOS XR-Linear on the same split, by P@5.

    python benchmarks/quality/time_to_peer.py --config configs/wordnet.yaml --data.source.path FOLDER
    python benchmarks/quality/time_to_peer.py --quick

The benchmark trains the run of the config (options of `python -m cxml.train` may follow), saves a checkpoint every few
steps and keeps all of them. A binary search finds the first checkpoint whose P@5 on the test split is at least that of
the peer. Its time runs from the finished label tree to the finished checkpoint, and includes the start of the
processes, the classifiers from centroids and the checkpoints. A run that was interrupted has no such time. The last
line is JSON: that time against the training time of the peer, from precomputed tf-idf.
"""

from __future__ import annotations

import argparse
import bisect
import dataclasses
import functools
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from quality.compare import QUICK, K, metrics_of, peer, write_inputs  # noqa: E402
from support.closing_line import print_closing_line  # noqa: E402
from support.configs import config_of  # noqa: E402
from support.peers import PEERS_FOLDER, linear_command  # noqa: E402
from support.small_runs import run_here  # noqa: E402

from cxml.checkpoint import COMMIT_FILE, checkpoints_url, list_checkpoints  # noqa: E402
from cxml.config import CheckpointConfig, Config  # noqa: E402
from cxml.console import set_up_logging  # noqa: E402
from cxml.data import ShardedDataset, data_url  # noqa: E402
from cxml.parallel import run_workers  # noqa: E402
from cxml.pipeline import run  # noqa: E402
from cxml.prediction import Predictor  # noqa: E402
from cxml.preparation import prepare  # noqa: E402
from cxml.tree import tree_url  # noqa: E402

XR_LINEAR = "PECOS XR-Linear"


def main() -> None:
    """Parse, train both, search, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small chapter of ICD-10-CM: under 50 s")
    parser.add_argument("--config", default=str(ROOT / "configs" / "wordnet.yaml"))
    parser.add_argument("--peers", type=Path, default=PEERS_FOLDER, help="folder of the venvs")
    parser.add_argument("--threads", type=int, default=2, help="threads of the peer")
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    options, rest = parser.parse_known_args()
    if options.quick:
        options.config, options.every = str(ROOT / "configs" / "icd10cm.yaml"), min(options.every, 4)
        rest = [*QUICK, "--output", "runs/benchmarks/time-quick", *rest]
    config = config_of("time_to_peer.py", ["--config", options.config, "--evaluate.no-baseline", *rest])
    kept = CheckpointConfig(every_minutes=0, every_steps=options.every, keep_last=1_000_000)
    config = dataclasses.replace(config, checkpoint=kept)
    set_up_logging(is_main=True)
    prepare(config)
    command = linear_command(options.peers, XR_LINEAR)
    linear = peer(config, write_inputs(config), XR_LINEAR, command, options.threads)
    final = run(config, run_job=run_here if options.quick else run_workers)["levels"][-1]["P@5"]
    first, found = first_as_good(config, linear["P@5"])
    seconds = seconds_after_the_tree(config, first)
    print(f"{XR_LINEAR}: P@5 {linear['P@5']:.2f} after {linear['train_s'] / 60:.1f} min of training")
    print(f"CascadeXML: P@5 {found:.2f} after {seconds / 60:.1f} min, {Path(first).name}; {final:.2f} at the end")
    # The figure has no goal. A linear model trains faster; the figure shows the price of better quality.
    print_closing_line("time_to_peer", seconds, "s", linear["train_s"], goal=0.0, lower_is_better=True,
                       provided=found >= linear["P@5"])  # fmt: skip


def first_as_good(config: Config, wanted: float) -> tuple[str, float]:
    """The first checkpoint whose P@5 is at least `wanted`, or else the last one, and its P@5.

    P@5 is assumed to rise, so about log2 of the number of checkpoints are evaluated.
    """
    urls = [entry.url for entry in reversed(list_checkpoints(checkpoints_url(config)))]
    p_at_5 = functools.cache(functools.partial(_p_at_5, config))
    place = min(bisect.bisect_left(urls, wanted, key=p_at_5), len(urls) - 1)
    return urls[place], p_at_5(urls[place])


def _p_at_5(config: Config, checkpoint: str) -> float:
    test = ShardedDataset(data_url(config), "test")
    tokens = test.gather(np.arange(len(test)))[0]
    found = metrics_of(config, Predictor.from_checkpoint(checkpoint).predict_tokens(tokens, K).labels)["P@5"]
    print(f"{Path(checkpoint).name}: P@5 {found:.2f}")
    return found


def seconds_after_the_tree(config: Config, checkpoint: str) -> float:
    """Seconds from the end of the tree's build to the end of the checkpoint."""
    times = [Path(url).stat().st_mtime for url in (f"{tree_url(config)}/manifest.json", f"{checkpoint}/{COMMIT_FILE}")]
    return times[1] - times[0]


if __name__ == "__main__":
    main()
