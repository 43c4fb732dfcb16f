"""One trial: a training in a separate process, whose evaluations are reported one by one."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from filelock import FileLock
from ray import tune

from cxml import storage
from cxml.artefacts import read_records
from cxml.config import config_from_dict, config_to_dict, with_values
from cxml.config_files import dump_config
from cxml.operating_system import ending_with_parent
from cxml.storage.locks import locked

_ENDING_SECONDS = 60
_LOG_TAIL = 3000


class Trial(tune.Trainable):
    """Runs `python -m cxml.train` on a config with the drawn values, in a folder named after them.

    The run keeps its own checkpoints, so an interrupted trial resumes when it is restarted. Its evaluations are then
    reported again from the first.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Start or resume the training.

        Args:
            config: `base`, the base config of all trials, as a mapping; `drawn`, the drawn values by dotted field name;
                `folder`, the folder of all trials.
        """
        drawn = config["drawn"]
        self._folder = Path(config["folder"], storage.fingerprint(drawn))
        run = dataclasses.replace(with_values(config_from_dict(config["base"]), drawn), output=str(self._folder))
        self._epochs = run.train.epochs
        self._seen = 0
        self._folder.mkdir(parents=True, exist_ok=True)
        # The same values may be drawn twice: the second trial waits, and then finds the results of the first.
        self._turn = FileLock(self._folder / "turn.lock", thread_local=False)
        self._turn.acquire()
        with locked(str(self._folder), wait=True):
            pass  # the training of a killed trial may still be saving its checkpoint
        file = self._folder / "trial.yaml"
        file.write_text(dump_config(config_to_dict(run)))
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        with (self._folder / "log.txt").open("a") as log:
            self._process = subprocess.Popen(
                [*ending_with_parent(signal.SIGTERM), sys.executable, "-m", "cxml.train", "--config", str(file),
                 "--launch.launcher", "local"],
                stdout=log, stderr=subprocess.STDOUT, env=environment,
            )  # fmt: skip

    def step(self) -> dict[str, Any]:
        """Wait for the next evaluation and return its label metrics."""
        while True:
            ended = self._process.poll()
            evaluations = self._evaluations()
            if len(evaluations) > self._seen:
                found = evaluations[self._seen]
                self._seen += 1
                return {**found["levels"][-1], "epoch": found["epoch"], "done": found["epoch"] >= self._epochs}
            if ended is not None:
                tail = (self._folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:]
                raise RuntimeError(f"the training in {self._folder} ended with {ended}:\n{tail}")
            time.sleep(0.5)

    def cleanup(self) -> None:
        """Stop the training after it has saved a checkpoint. A training that has reported its last epoch may finish."""
        if self._seen < self._epochs:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._turn.release()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Do nothing: the run has its own checkpoints."""

    def load_checkpoint(self, checkpoint: dict | None) -> None:
        """Do nothing, as above."""

    def _evaluations(self) -> list[dict[str, Any]]:
        records = read_records(str(self._folder / "metrics.jsonl"))
        return [record for _, record in records if record["kind"] == "evaluate"]
