"""A classifier of texts with scikit-learn's interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from cxml import extras
from cxml.errors import ConfigError
from cxml.fitting.packing import pack, unpack
from cxml.fitting.train import train
from cxml.prediction import Predictor
from cxml.prediction.arguments import as_texts

extras.require("cxml.CascadeClassifier", "", "sklearn")

from sklearn.base import BaseEstimator, ClassifierMixin  # noqa: E402
from sklearn.utils.multiclass import type_of_target  # noqa: E402
from sklearn.utils.validation import check_is_fitted  # noqa: E402


class CascadeClassifier(ClassifierMixin, BaseEstimator):
    """`cxml.train` as a scikit-learn classifier of texts, with one or several labels per text.

    `fit` takes a sequence of N strings and either N class labels, or an indicator matrix [N, L] of several labels per
    text, dense or sparse, such as `sklearn.preprocessing.MultiLabelBinarizer` returns. Rows without a label are not
    used for training.

    A fitted classifier can be pickled, copied and dumped with joblib. The pickle contains the files of the exported
    model, so it is as large as the model and loads without the training output. Like every pickle, it can execute code
    when it is loaded, so load only your own. To share a model, use `predictor_.save_pretrained` instead.

    Args:
        settings: fields of the config, as nested mappings or by dotted names, such as `{"train.epochs": 3}`; None
            chooses all of them from the data.
        threshold: lowest score of a label that `predict` returns for a multi-label text.
        top_k: number of labels per text that `predict_proba` scores; all others have 0.
        random_state: seed of the training.
        verbose: show the output of the training.

    Attributes:
        classes_: the class labels, or the column numbers of the indicator matrix, in the order of `predict_proba`.
        predictor_: the trained model. Its label names are positions in `classes_`.
    """

    def __init__(
        self,
        *,
        settings: Mapping[str, Any] | None = None,
        threshold: float = 0.5,
        top_k: int = 100,
        random_state: int = 0,
        verbose: bool = False,
    ) -> None:
        """Store the values unchanged, as scikit-learn requires."""
        self.settings = settings
        self.threshold = threshold
        self.top_k = top_k
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Sequence[str], y: Any) -> CascadeClassifier:  # noqa: ANN401 - scikit-learn's names
        """Train on N texts.

        Raises:
            ConfigError: texts or labels are invalid.
            CxmlError: the training failed.
        """
        texts = as_texts(X)
        rows = self._label_rows(y)
        if len(rows) != len(texts):
            problem = f"has {len(rows)} rows, but there are {len(texts)} texts"
            raise ConfigError("y", f"{len(rows)} rows", problem, "Give the labels of each text.")
        labelled = [row for row, own in enumerate(rows) if own]
        self.predictor_: Predictor = train(
            [texts[row] for row in labelled], [rows[row] for row in labelled],
            verbose=self.verbose, **{"seed": self.random_state, **(self.settings or {})},
        )  # fmt: skip
        return self

    def predict(self, X: Sequence[str]) -> np.ndarray | sparse.csr_matrix:
        """The class label of each text [N], or an indicator CSR int64 [N, L] of the labels that reach the threshold."""
        scores = self.predict_proba(X)
        if self.is_multilabel_:
            return sparse.csr_matrix(scores >= self.threshold, dtype=np.int64)
        return self.classes_[np.asarray(scores.argmax(axis=1)).ravel()]

    def predict_proba(self, X: Sequence[str]) -> sparse.csr_matrix:
        """Scores of the `top_k` best labels of each text, CSR float32 [N, L]. A row need not sum to 1."""
        check_is_fitted(self)
        found = self.predictor_.predict(as_texts(X), min(self.top_k, len(self.predictor_.names)))
        rows, places = np.nonzero(found.labels >= 0)
        columns = np.array([int(name) for name in self.predictor_.names])[found.labels[rows, places]]
        shape = (len(found.labels), len(self.classes_))
        return sparse.csr_matrix((found.scores[rows, places], (rows, columns)), shape, dtype=np.float32)

    def __getstate__(self) -> dict[str, Any]:
        """State for a pickle or a copy, with the model as the bytes of its files."""
        state = dict(super().__getstate__())
        if "predictor_" in state:
            state["predictor_"] = pack(state["predictor_"])
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Load the model from the bytes of its files."""
        loaded = {"predictor_": unpack(state["predictor_"])} if "predictor_" in state else {}
        super().__setstate__({**state, **loaded})

    def _label_rows(self, y: Any) -> list[list[int]]:  # noqa: ANN401
        """Positions in `classes_` of each text's labels; sets `classes_`."""
        kind = type_of_target(y, input_name="y")
        if kind in ("binary", "multiclass"):
            self.is_multilabel_ = False
            self.classes_, places = np.unique(np.asarray(y), return_inverse=True)
            return [[place] for place in places.tolist()]
        if kind != "multilabel-indicator":
            remedy = "Give one class label per text, or the indicator matrix of sklearn's MultiLabelBinarizer."
            raise ConfigError("y", kind, "is not a supported type of target", remedy)
        self.is_multilabel_ = True
        matrix = sparse.csr_matrix(y)
        matrix.eliminate_zeros()
        self.classes_ = np.arange(matrix.get_shape()[1])
        return [part.tolist() for part in np.split(matrix.indices, matrix.indptr[1:-1])]

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401 - scikit-learn's name and type
        """Capabilities of the estimator for scikit-learn."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.input_tags.string = False, True, True
        tags.classifier_tags.multi_label = True
        tags.target_tags.multi_output = True
        tags.no_validation = True
        return tags
