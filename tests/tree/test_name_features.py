"""Features of label names.

Oracles: scikit-learn's counts with the formula of tf-idf, and `transformers` for the encoder's embeddings.
"""

import numpy as np
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from support.runs import make_encoder

from cxml.config import config_from_dict
from cxml.errors import ConfigError, DataError
from cxml.tree import features_of_names
from cxml.tree.name_features import set_beside

NAMES = ["red shoes", "running shoes of a red kind", "books", "old books and maps"]


def config(**sections):
    return config_from_dict({"auto": [], "output": "none", "data": {"source": {"kind": "icd10cm"}}, **sections})


def test_words_are_weighed_by_how_rare_they_are_and_rows_have_norm_one():
    found = features_of_names(config(tree={"name_features": "tfidf"}), NAMES, "data")
    counts = TfidfVectorizer(token_pattern=r"\w+", use_idf=False, norm=None).fit(NAMES)
    dense = counts.transform(NAMES).toarray()
    idf = np.log((1 + len(NAMES)) / (1 + (dense > 0).sum(0))) + 1
    expected = np.where(dense > 0, 1 + np.log(np.maximum(dense, 1)), 0) * idf
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found.toarray(), expected, atol=1e-6)


def test_an_encoders_embedding_is_the_mean_over_the_names_own_tokens(tmp_path):
    import torch
    from transformers import AutoModel, AutoTokenizer

    path = make_encoder(tmp_path / "encoder")
    found = features_of_names(config(tree={"name_features": "encoder"}, model={"encoder": path}), NAMES, "data")
    tokenizer, encoder = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    for name, row in zip(NAMES, found.toarray(), strict=True):
        with torch.no_grad():
            mean = encoder(**tokenizer(name, return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-5)


def test_both_kinds_of_features_stand_beside_each_other_with_their_weight():
    texts = sparse.csr_matrix(np.array([[0, 1], [1, 0]], np.float32))
    names = sparse.csr_matrix(np.array([[0.6, 0.8], [0, 1]], np.float32))
    both = set_beside(texts, names, 0.5)
    assert both.dtype == np.float32
    np.testing.assert_allclose(both.toarray(), [[0, 1, 0.3, 0.4], [1, 0, 0, 0.5]])


def test_names_without_words_and_an_unknown_encoder_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"data: the label names contain no words.*tree\.name_features to none"):
        features_of_names(config(tree={"name_features": "tfidf"}), ["", "!"], "data")
    missing = config(tree={"name_features": "encoder"}, model={"encoder": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match=r"model\.encoder.*cannot be loaded"):
        features_of_names(missing, NAMES, "data")
