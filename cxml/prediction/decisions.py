"""Label decisions instead of rankings: named thresholds, and calibrated probabilities.

They are chosen on validation texts (`choose_decisions`), and stored as `decisions.json` next to a run's report and in
exported folders.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
from scipy import sparse

from cxml import artefacts, storage
from cxml.config import ThresholdName
from cxml.errors import ConfigError, DataError
from cxml.metrics import (
    Calibration,
    ScoredPairs,
    Thresholds,
    fit_calibration,
    macro_f1_thresholds,
    micro_f1_threshold,
    precision_threshold,
)

DECISIONS_FILE = "decisions.json"
_FORMAT, _VERSION = "cxml-decisions", 1
_CHOOSE = (
    "Evaluate a run that has validation texts (train.validation_fraction): python -m cxml.evaluate chooses thresholds."
)


@dataclass(frozen=True, eq=False)
class Decisions:
    """Thresholds and calibration of one model.

    Attributes:
        num_texts: validation texts used for the choice.
        thresholds: thresholds by `ThresholdName`, as far as they could be chosen.
        calibration: map from the model's scores to probabilities; None if it could not be fitted.
    """

    num_texts: int = 0
    thresholds: Mapping[str, Thresholds] = field(default_factory=dict)
    calibration: Calibration | None = None

    def threshold(self, name: str) -> Thresholds:
        """The threshold of a name.

        Raises:
            ConfigError: the model has no threshold of that name.
        """
        if name not in self.thresholds:
            known = ", ".join(self.thresholds)
            remedy = f"Give one of {known}, or a number from 0 to 1." if known else f"Give a number, or: {_CHOOSE}"
            raise ConfigError("threshold", name[:80], "is not a threshold of this model", remedy)
        return self.thresholds[name]

    def renumbered(self, kept: np.ndarray) -> Decisions:
        """The decisions for the labels `kept`, sorted int64 [m], renumbered to 0..m - 1."""
        thresholds = {name: each.renumbered(kept) for name, each in self.thresholds.items()}
        return dataclasses.replace(self, thresholds=thresholds)


def choose_decisions(
    labels: np.ndarray, scores: np.ndarray, true: sparse.csr_matrix, wanted_precision: float
) -> Decisions:
    """Choose thresholds and fit a calibration on validation texts.

    Args:
        labels: int64 [N, K], the best labels of each text, -1 for none; K must include all likely labels.
        scores: float32 [N, K].
        true: CSR [N, L].
        wanted_precision: target micro precision of the threshold `precision`.
    """
    pairs = ScoredPairs.of(labels, scores, true)
    chosen = (
        micro_f1_threshold(pairs), macro_f1_thresholds(pairs, true), precision_threshold(pairs, wanted_precision)
    )  # fmt: skip
    found = {name: each for name, each in zip(get_args(ThresholdName), chosen, strict=True) if each is not None}
    return Decisions(len(labels), found, fit_calibration(pairs.scores, pairs.is_true))


def as_threshold(threshold: float | str | None, decisions: Decisions) -> Thresholds | float | None:
    """Validate the user's argument `threshold`.

    Raises:
        ConfigError: it is neither a number from 0 to 1 nor the name of a threshold of the model.
    """
    if isinstance(threshold, str):
        return decisions.threshold(threshold)
    if threshold is None:
        return None
    is_number = isinstance(threshold, int | float | np.integer | np.floating) and not isinstance(threshold, bool)
    if not is_number or not 0 <= threshold <= 1:
        names = ", ".join(decisions.thresholds) or "this model has none"
        remedy = f"Give a number such as 0.5, or a name ({names})."
        raise ConfigError("threshold", str(threshold)[:80], "must be a number from 0 to 1 or a name", remedy)
    return float(threshold)


def parse_threshold(text: str) -> float | str | None:
    """Parse a threshold of a command line: a number, a name, or None if empty."""
    try:
        return float(text)
    except ValueError:
        return text or None


def decisions_as_json(decisions: Decisions, **facts: object) -> bytes:
    """The content of `decisions.json`, with further facts such as their model."""
    values = {
        "format": _FORMAT, "version": _VERSION, **facts, "texts": decisions.num_texts,
        "thresholds": {
            name: {"shared": each.shared, "labels": each.labels.tolist(), "own": each.own.tolist()}
            for name, each in decisions.thresholds.items()
        },
        "calibration": {
            name: [] if decisions.calibration is None else getattr(decisions.calibration, name).tolist()
            for name in ("scores", "shares")
        },
    }  # fmt: skip
    return json.dumps(values).encode()


def parse_decisions(content: bytes, file: str, num_labels: int | None, remedy: str) -> tuple[Decisions, dict[str, Any]]:
    """Decisions from the content of `decisions.json`, and all of its values.

    Raises:
        DataError: it is not a result of `decisions_as_json`, or not for `num_labels` labels (None: any number).
    """
    values = artefacts.parse_object(content, file, remedy)
    if (values.get("format"), values.get("version")) != (_FORMAT, _VERSION):
        raise DataError(file, f"is not of the form {_FORMAT} {_VERSION}", remedy)
    stored = artefacts.parse_as(
        _Stored, {name: values.get(name) for name in ("texts", "thresholds", "calibration")}, file, remedy
    )
    thresholds = {name: _thresholds(each) for name, each in stored.thresholds.items()}
    scores, shares = (np.array(each, np.float64) for each in (stored.calibration.scores, stored.calibration.shares))
    is_whole = len(scores) == len(shares) and all(_are_shares(each) and _rises(each) for each in (scores, shares))
    if not is_whole or not all(_is_sound(each, num_labels) for each in thresholds.values()):
        raise DataError(file, "its thresholds or its calibration are invalid", remedy)
    calibration = Calibration(scores, shares) if len(scores) else None
    return Decisions(stored.texts, thresholds, calibration), values


def read_exported_decisions(url: str, remedy: str) -> Decisions:
    """The decisions in an exported folder, for any number of labels; empty if there are none.

    Raises:
        DataError: the file is damaged.
    """
    try:
        facts = artefacts.read_manifest(url, remedy)["files"][DECISIONS_FILE]
    except (FileNotFoundError, KeyError, TypeError):
        return Decisions()
    return exported_decisions(url, artefacts.named_entries({DECISIONS_FILE: facts}, url, remedy), None, remedy)


def exported_decisions(
    url: str, files: Mapping[str, artefacts.FileEntry], num_labels: int | None, remedy: str
) -> Decisions:
    """`read_exported_decisions` for a folder with known files and number of labels (None: any number)."""
    if DECISIONS_FILE not in files:
        return Decisions()
    content = artefacts.read_file(url, files[DECISIONS_FILE], remedy)
    return parse_decisions(content, storage.join(url, DECISIONS_FILE), num_labels, remedy)[0]


def read_run_decisions(output: str, model: str, num_labels: int | None) -> Decisions:
    """The decisions in a run's output; empty if there are none, or if they belong to another model than `model`.

    Raises:
        DataError: the file is damaged.
    """
    file = storage.join(output, DECISIONS_FILE)
    if not storage.exists(file):
        return Decisions()
    decisions, values = parse_decisions(storage.read_bytes(file), file, num_labels, "Evaluate the run again.")
    return decisions if values.get("model") == model else Decisions()


def write_run_decisions(output: str, model: str, decisions: Decisions) -> None:
    """Write decisions to a run's output, for the model with the identity `model`."""
    storage.write_atomic(storage.join(output, DECISIONS_FILE), decisions_as_json(decisions, model=model))


@dataclass(frozen=True)
class _StoredThresholds:
    shared: float
    labels: tuple[int, ...]
    own: tuple[float, ...]


@dataclass(frozen=True)
class _StoredCalibration:
    scores: tuple[float, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class _Stored:
    texts: int
    thresholds: dict[str, _StoredThresholds]
    calibration: _StoredCalibration


def _thresholds(stored: _StoredThresholds) -> Thresholds:
    return Thresholds(stored.shared, np.array(stored.labels, np.int64), np.array(stored.own, np.float64))


def _is_sound(thresholds: Thresholds, num_labels: int | None) -> bool:
    labels = thresholds.labels
    most = np.iinfo(np.int32).max if num_labels is None else num_labels
    is_known = not len(labels) or (labels[0] >= 0 and labels[-1] < most and bool((np.diff(labels) > 0).all()))
    are_shares = _are_shares(np.append(thresholds.own, thresholds.shared))
    return is_known and are_shares and len(labels) == len(thresholds.own)


def _are_shares(values: np.ndarray) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())


def _rises(values: np.ndarray) -> bool:
    return bool((np.diff(values) >= 0).all())
