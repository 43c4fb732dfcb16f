"""The words of whole texts as a source: a vocabulary and a linear model over the cascade's tree.

vocabulary.arrow          words and their weights
level-00.safetensors      the classifiers of each level, coarse to fine, with the label level last: see `LevelWeights`
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pyarrow as pa

from cxml import artefacts, storage
from cxml.data import Vocabulary, checked_vocabulary
from cxml.data.schema import VOCABULARY_FILE, VOCABULARY_SCHEMA
from cxml.evidence.beam import LevelWeights
from cxml.evidence.folder import Folder, are_bounds, write_tensors
from cxml.evidence.source import LabelSubset, Proposals, TextViews, View
from cxml.evidence.word_model import WordModel
from cxml.tree import LabelTree

_TYPES = {
    "starts": (np.int64, 1), "words": (np.int32, 1), "offsets": (np.int64, 1), "nodes": (np.int32, 1),
    "values": (np.float32, 1), "bias": (np.float32, 1),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class WordSource:
    """Words of whole texts; satisfies `Source`.

    Attributes:
        vocabulary: F words and their weights.
        model: of the words, over the cascade's tree.
    """

    name: ClassVar[str] = "words"
    reads: ClassVar[View] = "words"
    vocabulary: Vocabulary
    model: WordModel

    @property
    def width(self) -> int:
        """See `Source`."""
        return len(self.vocabulary.terms)

    @property
    def num_bytes(self) -> int:
        """Memory of the classifiers."""
        return self.model.num_bytes

    @property
    def description(self) -> str:
        """See `Source`."""
        return f"a linear model over {self.width:,} words of the whole texts"

    def propose(self, texts: TextViews, k: int) -> Proposals:
        """See `Source`."""
        assert texts.words is not None, "it reads words"
        return Proposals(*self.model.predict(texts.words, k))

    def restricted(self, subset: LabelSubset) -> WordSource:
        """See `Source`."""
        return replace(self, model=self.model.restricted(subset.tree, subset.kept))

    def write(self, url: str) -> None:
        """See `Source`."""
        storage.write_atomic(storage.join(url, VOCABULARY_FILE), artefacts.arrow_file(self.vocabulary.table()))
        for number, level in enumerate(self.model.levels):
            write_tensors(storage.join(url, _level_file(number)), level._asdict())


def read_words(folder: Folder, tree: LabelTree) -> WordSource:
    """Read the word source in a folder.

    Raises:
        DataError: a file is missing or damaged, or does not fit the tree.
    """
    where = folder.where(VOCABULARY_FILE)
    batches = artefacts.read_batches(folder.read(VOCABULARY_FILE), [VOCABULARY_SCHEMA], where, folder.remedy)
    vocabulary = checked_vocabulary(pa.Table.from_batches(batches, VOCABULARY_SCHEMA), where, folder.remedy)
    levels = []
    for number, size in enumerate(tree.level_sizes):
        level = LevelWeights(**folder.read_tensors(_level_file(number), _TYPES))
        children = tree.offsets[number - 1] if number else np.array([0, size])
        if problem := _level_problem(level, children, len(vocabulary.terms)):
            raise folder.broken(_level_file(number), problem)
        levels.append(level)
    return WordSource(vocabulary, WordModel(tree, tuple(levels), len(vocabulary.terms)))


def _level_problem(level: LevelWeights, children: np.ndarray, num_words: int) -> str:
    """The problem of a level's weights, given the children of each parent; an empty string if there is none."""
    num_parents, num_nodes = len(children) - 1, int(children[-1])
    is_cut = are_bounds(level.starts, num_parents, len(level.words)) and are_bounds(
        level.offsets, len(level.words), len(level.nodes)
    )
    if not is_cut or len(level.values) != len(level.nodes) or len(level.bias) != num_nodes:
        return f"must contain the classifiers of {num_nodes} nodes below {num_parents} parents"
    parent_of = np.repeat(np.arange(num_parents), np.diff(level.starts))
    rises = (np.diff(level.words.astype(np.int64) + parent_of * num_words) > 0).all()
    if len(level.words) and not (rises and 0 <= level.words.min() <= level.words.max() < num_words):
        return f"must contain words in 0..{num_words - 1}, sorted within each parent"
    owner = np.repeat(parent_of, np.diff(level.offsets))
    if ((level.nodes < children[owner]) | (level.nodes >= children[owner + 1])).any():
        return "contains a weight of a node that is not a child of its parent"
    return ""


def _level_file(number: int) -> str:
    return f"level-{number:02d}.safetensors"
