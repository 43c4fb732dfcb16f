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
    """Folder or URL of the tree; empty: `tree` inside the run's output. Runs may share one."""
    engine: Literal["auto", "local", "ray"] = setting("auto", "none")
    """What builds the tree, with the same bytes out: `local` is this process with its threads, `ray` a Ray cluster
    (RAY_ADDRESS, or one that is started on this machine for the while), `auto` takes Ray where the process belongs to a
    cluster or RAY_ADDRESS names one, and the data set is large: from 256 MB of train shards on."""
    num_workers: int = setting(0, "none")
    """Ray workers that hold the label features, each with one thread; 0: one per CPU of the cluster."""
    level_sizes: tuple[int, ...] | Literal["auto"] = setting("auto", choosable=True)
    """Clusters of each level above the labels, coarse to fine, such as 1024 8192 65536; empty: no tree, all labels
    are scored. The default of a config that leaves nothing to the run: 256, or no tree where there are fewer labels."""
    feature_top_k: int = 1000
    """Largest tf-idf terms kept per label."""
    walk_length: int = 0
    """Steps of each label's random walk over the labels that share texts; a label's features become the sum of those of
    the labels it visits most. 0: none. CascadeXML takes 400."""
    walk_restart: float = 0.8
    """Chance that a step of the walk leads back to the label where it began, in [0, 1)."""
    walk_top_k: int = 10
    """Labels kept of each walk: those visited most."""
    walk_max_frequency: int = 0
    """Labels of more train texts than this stay out of all walks and keep their features; 0: no limit."""
    name_features: Literal["none", "tfidf", "encoder"] = "none"
    """Features of the labels' names, set beside those of their texts: tf-idf of the names' words, or embeddings by
    model.encoder as it comes (the mean over tokens of its last layer)."""
    name_weight: float = 0.5
    """Weight of the name features, where those of the texts have 1; above 0."""
    max_iterations: int = 20
    """Most passes of each balanced 2-means."""
    tolerance: float = 1e-4
    """A 2-means stops when its mean cosine gains less than this share of itself in one pass."""

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
            "Set tree.name_features to none to leave names out.",
        )  # fmt: skip
        require_at_least("tree.max_iterations", self.max_iterations, 1)
        require_at_least("tree.tolerance", self.tolerance, 0)

    @property
    def sizes(self) -> tuple[int, ...]:
        """`level_sizes` as numbers. Raises `ConfigError` for `auto`, which `cxml.tree.fit_levels` replaces."""
        if self.level_sizes == "auto":
            problem = "depends on the number of labels, which is not known here"
            raise ConfigError("tree.level_sizes", "auto", problem, "Give numbers, such as [256], or [] for no tree.")
        return self.level_sizes
