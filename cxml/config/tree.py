"""The section `tree`: the label tree."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

from cxml.config.fields import require, require_at_least, require_fraction, setting
from cxml.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TreeConfig:
    """The label tree: balanced spherical k-means over label features."""

    directory: str = setting("", "none")
    """Folder or URL of the tree; empty: `tree` in the run's output. Several runs can share it."""
    engine: Literal["auto", "local", "ray"] = setting("auto", "none")
    """Where the tree is built; it is the same bit for bit. `local`: in this process, with its threads. `ray`: on the
    Ray cluster of RAY_ADDRESS, or on a temporary local cluster. `auto`: on Ray if the process belongs to a cluster or
    RAY_ADDRESS is set, and the train shards have 256 MiB or more; else in this process."""
    num_workers: int = setting(0, "none")
    """Number of Ray workers that hold the label features, with one thread each; 0: one per CPU of the cluster."""
    level_sizes: tuple[int, ...] | Literal["auto"] = setting("auto", choosable=True)
    """Number of clusters of each level above the labels, from coarse to fine, such as 1024 8192 65536. Empty: no tree,
    and every text is scored on all labels. `auto`, if the run chooses no settings (`auto: []`): one level of 256
    clusters, or no tree if there are fewer labels."""
    feature_top_k: int = 1000
    """Number of tf-idf terms kept per label: those with the largest values."""
    walk_length: int = 0
    """Number of steps of a random walk that starts at each label and moves between labels that share texts. The
    features of a label become the sum over the labels that its walk visits most. 0: no walks. CascadeXML uses 400."""
    walk_restart: float = 0.8
    """Probability that a step of the walk returns to its first label, in [0, 1)."""
    walk_top_k: int = 10
    """Number of labels kept of each walk: those visited most."""
    walk_max_frequency: int = 0
    """Labels with more train texts than this take part in no walk and keep their features; 0: no limit."""
    name_features: Literal["none", "tfidf", "encoder"] = "none"
    """Features of the label names, in addition to those of the texts. `tfidf`: tf-idf of the words of the names.
    `encoder`: embeddings by model.encoder before training (the mean over tokens of its last layer). With a labels
    file, titles and descriptions are used instead of names."""
    name_weight: float = 0.5
    """Weight of the name features; above 0. The features of the texts have weight 1."""
    max_iterations: int = 20
    """Maximum number of passes of each balanced 2-means."""
    tolerance: float = 1e-4
    """A 2-means stops when one pass improves its mean cosine by less than this share of the mean cosine."""

    def __post_init__(self) -> None:
        sizes = () if self.level_sizes == "auto" else self.level_sizes
        rising = all(size >= 1 for size in sizes) and all(a < b for a, b in itertools.pairwise(sizes))
        require(rising, "tree.level_sizes", sizes, "sizes must rise from coarse to fine", "Write e.g. [256, 2048].")
        require_at_least("tree.num_workers", self.num_workers, 0)
        require_at_least("tree.feature_top_k", self.feature_top_k, 1)
        require_at_least("tree.walk_length", self.walk_length, 0)
        require_fraction("tree.walk_restart", self.walk_restart)
        require_at_least("tree.walk_top_k", self.walk_top_k, 1)
        require_at_least("tree.walk_max_frequency", self.walk_max_frequency, 0)
        require(
            self.name_weight > 0, "tree.name_weight", self.name_weight, "must be above 0",
            "Set tree.name_features to none to not use names.",
        )  # fmt: skip
        require_at_least("tree.max_iterations", self.max_iterations, 1)
        require_at_least("tree.tolerance", self.tolerance, 0)

    @property
    def sizes(self) -> tuple[int, ...]:
        """`level_sizes` as numbers. Raises `ConfigError` for `auto`, which `cxml.tree.fit_levels` replaces."""
        if self.level_sizes == "auto":
            problem = "depends on the number of labels, which is unknown here"
            raise ConfigError("tree.level_sizes", "auto", problem, "Give numbers, such as [256], or [] for no tree.")
        return self.level_sizes
