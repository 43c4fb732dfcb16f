"""What labels mean in words: a title and perhaps a description of each.

A label's name is the string that stands for it in the texts, often an id or code such as 4038. Where a labels file says
more, a title such as "international affairs" goes with it. The name stays what labels are told apart by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LabelTitles:
    """Words about each of the L labels.

    Attributes:
        titles: of the labels; the name where a label has no title.
        descriptions: of the labels; empty where a label has none.
    """

    titles: Sequence[str]
    descriptions: Sequence[str]

    @classmethod
    def of_names(cls, names: Sequence[str]) -> LabelTitles:
        """The names as titles, where a data set has no others."""
        return cls(names, [""] * len(names))

    @property
    def texts(self) -> list[str]:
        """Title and description of each label as one text."""
        return [with_description(*pair) for pair in zip(self.titles, self.descriptions, strict=True)]


def with_description(title: str, description: str) -> str:
    """A title, or a part of one, and a description as one text."""
    return f"{title}: {description}" if description else title


def shown_label(name: str, title: str | None) -> str:
    """What to show of a label: its name, and its title where that is another word."""
    return name if title in (None, name) else f"{name} {title}"


def shown_labels(names: Sequence[str], titles: Sequence[str] | None) -> list[str]:
    """`shown_label` of each label; None: there are no titles."""
    return list(names) if titles is None else [shown_label(*pair) for pair in zip(names, titles, strict=True)]
