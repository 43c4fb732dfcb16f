"""A label tree from what a trained model has learnt of the texts, for another run to go on with."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from cxml import storage
from cxml.config import Config
from cxml.data import ShardedDataset, data_url
from cxml.errors import ConfigError, StaleArtefactError
from cxml.prediction import Predictor
from cxml.preparation import is_prepared, prepare
from cxml.progress import track
from cxml.settings import fit_to_labels
from cxml.storage.locks import locked
from cxml.tree import LabelTree, cluster_labels, save_tree, tree_url

_TEXTS_AT_ONCE = 4096


def recluster(config: Config, model: str) -> LabelTree:
    """Save as the tree of `config`'s run one whose labels are clustered by their texts' features in a trained model.

    Args:
        config: a run that has no tree yet; its data are prepared if need be, and must keep their texts.
        model: what `Predictor.from_checkpoint` takes.

    Raises:
        ConfigError: the data keep no texts, or a level has more clusters than there are labels.
        DataError: there is no trained model.
        StaleArtefactError: the run has a tree already.
        InUseError: another command writes to the run's output or its tree.
    """
    with locked(config.output), locked(tree_url(config)):
        return _recluster(config, model, tree_url(config))


def _recluster(config: Config, model: str, url: str) -> LabelTree:
    if storage.exists(storage.join(url, "manifest.json")):
        raise StaleArtefactError(f"{url}: there is a tree here already. Name another output.")
    predictor = Predictor.from_checkpoint(model)
    if not is_prepared(config):
        prepare(config)
    train = ShardedDataset(data_url(config), "train")
    config = fit_to_labels(config, train.manifest.num_labels)
    if not train.has_texts:
        problem = f"{data_url(config)} holds no texts, which the model has to read"
        raise ConfigError("data.keep_text", False, problem, "Prepare the data with data.keep_text: true.")
    tree = cluster_labels(config, sparse.csr_matrix(learnt_features(predictor, train)))
    save_tree(config, tree, train.manifest.fingerprint, imported=model)
    return tree


def learnt_features(predictor: Predictor, train: ShardedDataset) -> np.ndarray:
    """Sum over each label's texts of their feature at the labels' level less the mean of all, float32 [L, D].

    Features of a transformer lie in a narrow cone; without their mean, cosines tell labels apart.
    """
    labels = train.labels_csr()
    parts = np.array_split(np.arange(len(train)), -(-len(train) // _TEXTS_AT_ONCE))
    sums, total = 0.0, 0.0
    for rows in track(parts, len(parts), "features"):
        features = predictor.embed(train.texts(rows))
        sums = sums + sparse.csr_matrix(labels[rows].T, dtype=np.float32) @ features
        total = total + features.sum(0, dtype=np.float64)
    counts = np.asarray(labels.sum(0), np.float64).reshape(-1, 1)
    return (sums - counts * (total / len(train))).astype(np.float32)
