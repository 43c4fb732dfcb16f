"""The sparse features of the label tree and the linear baseline: tf-idf over single words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from cxml.console import track
from cxml.errors import DataError


def fit_tfidf(texts: Sequence[str], max_features: int) -> TfidfVectorizer:
    """Fit tf-idf on the train texts.

    Terms are lower-cased words, the `max_features` most frequent; tf is 1 + log of the count in the text, which keeps
    a word repeated in a long text from drowning the others; idf is smoothed; rows are L2-normalised float32.
    One-letter words are kept, unlike in scikit-learn's default: in short texts such as "hepatitis B" they carry the
    meaning.

    Raises:
        DataError: no text holds a word.
    """
    vectorizer = TfidfVectorizer(
        token_pattern=r"(?u)\b\w+\b",
        sublinear_tf=True,
        max_features=max_features,
        dtype=np.float32,  # pyright: ignore[reportArgumentType]
    )
    try:
        return vectorizer.fit(track(texts, len(texts), "Learning the tf-idf vocabulary"))
    except ValueError as error:  # scikit-learn's name for an empty vocabulary
        raise DataError("train texts", f"no tf-idf vocabulary ({error})", "Give texts that hold words.") from error
