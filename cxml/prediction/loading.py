"""Find a model, locally or on the hub, and load its parts in the number format and with the weights for prediction."""

from __future__ import annotations

from dataclasses import replace

from cxml import storage
from cxml.errors import ConfigError
from cxml.parallel import Exchange
from cxml.prediction.export import is_exported, read_exported
from cxml.prediction.hub import download, is_repository_name
from cxml.prediction.packed_rows import RowFormat
from cxml.prediction.parts import Parts, no_model, read_parts, refuse_file
from cxml.prediction.rare_labels import adjust_logits, weigh_labels


def find_exported(name: str, revision: str | None) -> str:
    """The location of an exported model: `name` itself, or the local copy of the hub repository `name`.

    Raises:
        DataError: the location contains no exported model. The message describes its content.
    """
    refuse_file(name, is_for_export=True)
    if is_exported(name):
        return name
    if storage.exists(name) or not is_repository_name(name):
        raise no_model(name, is_for_export=True)
    return download(name, revision)


def load_parts(
    url: str,
    exchange: Exchange,
    *,
    rows: RowFormat | None,
    logit_adjustment: float,
    propensity_ranking: float,
    evidence: bool,
    memory_map: bool,
) -> Parts:
    """Load a model; arguments and errors as of `Predictor.from_checkpoint`."""
    if is_exported(url):
        parts = read_exported(url, exchange, memory_map=memory_map, evidence=evidence)
    elif memory_map:
        raise ConfigError(
            "memory_map", True, f"{url} is not an exported folder", "Export it first: python -m cxml.export."
        )
    else:
        parts = read_parts(url, exchange, evidence=evidence)
    parts = weigh_labels(adjust_logits(parts, logit_adjustment), propensity_ranking)
    if rows is not None:
        if memory_map and rows != parts.rows.format:
            raise ConfigError(
                "rows", rows, f"the mapped rows are {parts.rows.format}", f"Export the model with --rows {rows}."
            )
        parts = replace(parts, rows=parts.rows.to(rows))
    return parts
