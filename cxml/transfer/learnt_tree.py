"""Build a label tree from the features of a trained model, for another run."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from cxml import artefacts, storage
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
    """Cluster labels by their texts' features in a trained model, and save the tree as that of `config`'s run.

    Args:
        config: a run without a tree; its data are prepared if needed, and must include the texts.
        model: argument of `Predictor.from_checkpoint`.

    Raises:
        ConfigError: the data contain no texts, or a level has more clusters than there are labels.
        DataError: the trained model does not exist.
        StaleArtefactError: the run already has a tree.
        InUseError: another command writes to the run's output or its tree.
    """
    with locked(config.output), locked(tree_url(config)):
        return _recluster(config, model, tree_url(config))


def _recluster(config: Config, model: str, url: str) -> LabelTree:
    if storage.exists(storage.join(url, artefacts.MANIFEST)):
        raise StaleArtefactError(f"{url}: the folder already contains a tree. Use another output.")
    predictor = Predictor.from_checkpoint(model)
    if not is_prepared(config):
        prepare(config)
    train = ShardedDataset(data_url(config), "train")
    config = fit_to_labels(config, train.manifest.num_labels)
    if not train.has_texts:
        problem = f"{data_url(config)} contains no texts, which the model needs"
        raise ConfigError("data.keep_text", False, problem, "Prepare the data with data.keep_text: true.")
    tree = cluster_labels(config, sparse.csr_matrix(learnt_features(predictor, train)))
    save_tree(config, tree, train.manifest.fingerprint, imported=model)
    return tree


def learnt_features(predictor: Predictor, train: ShardedDataset) -> np.ndarray:
    """Sum over each label's texts of their centred features at the label level, float32 [L, D].

    Features of a transformer lie in a narrow cone; after centring, cosines separate labels.
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
