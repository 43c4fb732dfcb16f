"""Reuse the trained model of another run.

Input: the config of the new run, and a trained model.

- `relabel` adapts the model to a changed label set: kept labels keep their rows and clusters.
- `recluster` builds the new run's label tree from the model's learnt features.

Output: the tree, and after `relabel` the model, in the output of the new run.
"""

from cxml.transfer.label_set import LabelChanges, relabel
from cxml.transfer.learnt_tree import learnt_features, recluster

__all__ = ["LabelChanges", "learnt_features", "recluster", "relabel"]
