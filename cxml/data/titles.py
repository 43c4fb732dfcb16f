"""Titles of labels, with optional descriptions.

A label's name is its string in the data of the texts, often an id or code such as 4038. A labels file can add a title
such as "international affairs". Labels are still identified by their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LabelTitles:
    """Titles and descriptions of the L labels.

    Attributes:
        titles: title of each label; its name if it has none.
        descriptions: description of each label; empty if it has none.
    """

    titles: Sequence[str]
    descriptions: Sequence[str]

    @classmethod
    def of_names(cls, names: Sequence[str]) -> LabelTitles:
        """The names as titles, for a data set without titles."""
        return cls(names, [""] * len(names))

    @property
    def texts(self) -> list[str]:
        """Title and description of each label as one text."""
        return [with_description(*pair) for pair in zip(self.titles, self.descriptions, strict=True)]


def with_description(title: str, description: str) -> str:
    """Join a title, or a part of one, and a description into one text."""
    return f"{title}: {description}" if description else title


def shown_label(name: str, title: str | None) -> str:
    """The displayed form of a label: its name, and its title if it differs from the name."""
    return name if title in (None, name) else f"{name} {title}"


def shown_labels(names: Sequence[str], titles: Sequence[str] | None) -> list[str]:
    """`shown_label` of each label; `titles` is None without titles."""
    return list(names) if titles is None else [shown_label(*pair) for pair in zip(names, titles, strict=True)]
