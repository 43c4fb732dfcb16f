"""A prediction job: its settings, and its finished parts."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, dataclass

from cxml import artefacts, storage, urls
from cxml.batch_prediction.outputs import OutputFormat
from cxml.config import PredictionPrecision
from cxml.console import counted
from cxml.errors import ConfigError, DataError, StaleArtefactError
from cxml.formats import STDIN, TextSource
from cxml.prediction import (
    RowFormat,
    as_threshold,
    decisions_as_json,
    model_identity,
    read_decisions,
)

_log = logging.getLogger(__name__)
_FINGERPRINT_FILE = "plan.json"
_PART = re.compile(r"part-(\d{5,})\.")
_ELSEWHERE = "Use another output folder, or delete this one."


@dataclass(frozen=True, kw_only=True)
class PredictionJob:
    """A file to predict.

    Attributes:
        model: argument of `Predictor.from_checkpoint`.
        source: the texts.
        output: folder to write.
        format: format of the part files.
        k: most labels per text.
        threshold: lowest score, or the name of a threshold of the model; see `Predictor.predict`.
        calibrated: return calibrated probabilities as scores, see `Predictor.from_checkpoint`.
        beam: see `Predictor.predict`.
        rows: number format of the label rows; None: as stored.
        memory_map: map an exported folder's label rows.
        batch_size: texts per batch.
        precision: number format of the encoder, see `Predictor.from_checkpoint`; None: as in evaluation.
        part_rows: texts per part file.
        allowed: file with a label name per line; others are not predicted. Empty: all.
        excluded: file with a line `row label` (ids from 0) for each label to exclude for a text, such as the LF data
            sets' filter_labels_test.txt. Empty: none.
        explain: show the path through the tree (`jsonl` only).
    """

    model: str
    source: TextSource
    output: str
    format: OutputFormat = "jsonl"
    k: int = 5
    threshold: float | str | None = None
    calibrated: bool = False
    beam: tuple[int, ...] = ()
    rows: RowFormat | None = None
    memory_map: bool = False
    batch_size: int = 128
    precision: PredictionPrecision | None = None
    part_rows: int = 16384
    allowed: str = ""
    excluded: str = ""
    explain: bool = False

    def __post_init__(self) -> None:
        for field, number in (("k", self.k), ("part-rows", self.part_rows), ("batch-size", self.batch_size)):
            if number < 1:
                raise ConfigError(f"--{field}", number, "must be at least 1", "Leave it out.")
        if not self.output:
            raise ConfigError("--output", self.output, "is empty", "Give a folder, or leave it out to print.")
        if self.explain and (self.format != "jsonl" or self.excluded):
            raise ConfigError("--explain", True, "needs --format jsonl, and excludes --excluded", "Leave one out.")

    def part_file(self, part: int) -> str:
        """URL of a part file."""
        return storage.join(self.output, f"part-{part:05d}.{self.format}")


def begin(job: PredictionJob) -> frozenset[int]:
    """Write the fingerprint of a job into its output folder, or find it there.

    The fingerprint of another job is replaced if that job stopped before its first part, as on a broken row.

    Returns:
        The parts that are done.

    Raises:
        StaleArtefactError: the folder holds predictions of another job.
        DataError: it holds something else, or a file of the job is missing.
    """
    is_stream = job.source.url == STDIN
    require_files(job)
    decisions = read_decisions(job.model)
    as_threshold(job.threshold, decisions)  # validated before any write
    facts = None if is_stream else [storage.size(job.source.url), storage.sha256(job.source.url)]
    settings = {name: value for name, value in asdict(job).items() if name not in ("output", "batch_size")}
    for name, before in (("precision", None), ("threshold", None), ("calibrated", False)):
        if settings[name] == before:
            del settings[name]  # folders of earlier releases do not have it
    settings = json.loads(urls.masked(json.dumps(settings)))  # credentials may change between starts
    filters = [storage.sha256(file) for file in (job.allowed, job.excluded) if file]
    uses_decisions = job.calibrated or isinstance(job.threshold, str)
    # A new evaluation of a run chooses them again, without changing the identity of the model.
    chosen = [decisions_as_json(decisions).decode()] if uses_decisions else []
    fingerprint = storage.fingerprint("predictions", settings, facts, filters, model_identity(job.model), *chosen)
    file = storage.join(job.output, _FINGERPRINT_FILE)
    names = storage.file_sizes(job.output)
    done = frozenset(int(match[1]) for match in map(_PART.match, names) if match)
    if _FINGERPRINT_FILE in names:
        found = artefacts.read_json(file, _ELSEWHERE).get("fingerprint")
        if (is_stream or found != fingerprint) and (done or artefacts.MANIFEST in names):
            raise StaleArtefactError(f"{job.output} has predictions with another model, input or setting. {_ELSEWHERE}")
    elif names:
        raise DataError(job.output, "is a folder with other content", _ELSEWHERE)
    storage.write_json(file, {"fingerprint": fingerprint})
    if done:
        _log.info("Already finished: %s", counted(len(done), "part"))
    return done


def require_files(job: PredictionJob) -> None:
    """Raise an error for missing files before any expensive work."""
    for file in (job.source.url, job.allowed, job.excluded):
        if file not in ("", STDIN) and not storage.exists(file):
            raise DataError(file, "does not exist", "Check the path.")
