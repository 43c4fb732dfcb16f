"""The label tree: clusters of labels with similar texts, in levels from coarse to fine.

Input: the labels of each training text [N, L], and the texts' tf-idf [N, F].

1. `pifa` sums the tf-idf of each label's texts: one sparse row per label. Optionally, `LabelGraph` and `weighted_sums`
   smooth the rows over co-occurring labels, and `features_of_names` are concatenated to them.
2. `plan_splits` fixes the number of children and labels of every node, which makes the tree balanced.
3. `build_tree` carries out the plan by balanced spherical 2-means, from the root down. Each split orders a node's
   labels.

Output: `LabelTree`, an order of the labels in which every cluster is contiguous, with the bounds of each level's
clusters; saved as one Arrow file and a manifest. `build` runs all steps for a config and a prepared data set, in this
process or on Ray workers (`distributed`), with the same result.
"""

from cxml.tree.build import build, cluster_labels, features_of_labels, save_tree, tree_fingerprint, tree_url
from cxml.tree.kmeans import build_tree
from cxml.tree.label_features import pifa, weighted_sums
from cxml.tree.label_graph import LabelGraph
from cxml.tree.label_tree import LabelTree
from cxml.tree.name_features import features_of_names
from cxml.tree.quality import cluster_recall, mean_cosine
from cxml.tree.shape import SplitPlan, fit_levels, plan_splits

__all__ = [
    "LabelGraph",
    "LabelTree",
    "SplitPlan",
    "build",
    "build_tree",
    "cluster_labels",
    "cluster_recall",
    "features_of_labels",
    "features_of_names",
    "fit_levels",
    "mean_cosine",
    "pifa",
    "plan_splits",
    "save_tree",
    "tree_fingerprint",
    "tree_url",
    "weighted_sums",
]
