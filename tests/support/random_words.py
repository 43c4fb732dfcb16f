"""Texts of random words, some of which determine the labels."""

import numpy as np
from scipy import sparse


def random_texts(num_texts=400, num_words=120, num_labels=24, seed=0):
    """Tf-idf rows of norm 1 and their labels. Each label has five words of its own. CSR float32 both."""
    generator = np.random.default_rng(seed)
    labels = sparse.random(num_texts, num_labels, 0.06, "csr", random_state=generator)
    labels.data[:] = 1
    labels = sparse.csr_matrix(labels + sparse.csr_matrix(
        (np.ones(num_texts), (np.arange(num_texts), generator.integers(0, num_labels, num_texts))), labels.shape
    ))  # fmt: skip
    labels.data[:] = 1
    own_words = np.repeat(np.eye(num_labels), 5, axis=1)
    words = (labels @ own_words) * generator.random((num_texts, num_words)) + 0.4 * (
        generator.random((num_texts, num_words)) > 0.93
    )
    words[:, 0] += 0.05
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    return sparse.csr_matrix(words.astype(np.float32)), labels.astype(np.float32)
