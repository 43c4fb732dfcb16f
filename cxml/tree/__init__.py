"""The label tree: labels whose texts are alike share a cluster, in levels from coarse to fine.

In: which labels each training text has [N, L], and the texts' tf-idf [N, F].

1. `pifa` sums the tf-idf of each label's texts: one sparse row per label.
2. `plan_splits` lays down how many children and labels every node has: balance is a matter of counting.
3. `build_tree` fills the plan by balanced spherical 2-means, from the root down: each split orders a node's labels.

Out: `LabelTree`, an order of the labels in which every cluster is a run, and each level's runs; saved as one Arrow
file and a manifest. `build` does all three for a config and a prepared data set.
"""

from cxml.tree.build import build, tree_fingerprint, tree_url
from cxml.tree.kmeans import build_tree
from cxml.tree.label_features import pifa
from cxml.tree.label_tree import LabelTree
from cxml.tree.plan import SplitPlan, plan_splits

__all__ = ["LabelTree", "SplitPlan", "build", "build_tree", "pifa", "plan_splits", "tree_fingerprint", "tree_url"]
