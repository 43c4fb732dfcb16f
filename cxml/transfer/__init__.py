"""What a run takes over from the trained model of another run.

In: the config of the new run, and a trained model.

- `relabel` carries the model over to a changed label set: labels that stay keep their rows and clusters.
- `recluster` builds the new run's label tree from the features that the model has learnt.

Out: the tree, and after `relabel` the model, in the output of the new run.
"""

from cxml.transfer.label_set import LabelCounts, relabel
from cxml.transfer.learnt_tree import learnt_features, recluster

__all__ = ["LabelCounts", "learnt_features", "recluster", "relabel"]
