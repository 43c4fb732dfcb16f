"""Features of the label names, to concatenate to those of their texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from cxml import extras
from cxml.config import Config
from cxml.errors import DataError

if TYPE_CHECKING:
    import torch

_MOST_TOKENS = 64
_NAMES_PER_BATCH = 256
_WORDS = r"(?u)\b\w+\b"
_CHOICE = "Add label names to the data set (see docs/formats.md), or set tree.name_features to none."


def features_of_names(config: Config, names: Sequence[str], data_url: str) -> sparse.csr_matrix:
    """Features of names, CSR float32 [L, F'] with rows of norm 1, by the method `tree.name_features`, not "none".

    Raises:
        ConfigError: a package is missing, or the encoder cannot be loaded.
        DataError: no name contains a word.
    """
    if config.tree.name_features == "encoder":
        return sparse.csr_matrix(_embed(config, names))
    extras.require("tree.name_features", "tfidf", "sklearn")
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 - an optional package

    words = TfidfVectorizer(
        token_pattern=_WORDS, sublinear_tf=True, max_features=config.data.tfidf_max_features,
        dtype=np.float32,  # pyright: ignore[reportArgumentType]  the stub knows float64 only
    )  # fmt: skip
    try:
        return sparse.csr_matrix(words.fit_transform(names))
    except ValueError as error:
        raise DataError(data_url, f"the label names contain no words ({error})", _CHOICE) from error


def set_beside(features: sparse.csr_matrix, names: sparse.csr_matrix, weight: float) -> sparse.csr_matrix:
    """Concatenate text features [n, F] and name features [n, F'] times `weight`: CSR float32 [n, F + F']."""
    return sparse.csr_matrix(sparse.hstack([features, names * np.float32(weight)], format="csr", dtype=np.float32))


def _embed(config: Config, names: Sequence[str]) -> np.ndarray:
    """Mean over tokens of the encoder's last layer, float32 [L, D], of norm 1."""
    import torch  # noqa: PLC0415 - workers on Ray need none

    from cxml.data.pretrained import load_pretrained, load_pretrained_tokenizer  # noqa: PLC0415

    trust = config.model.trust_remote_code
    tokenizer: Any = load_pretrained_tokenizer(config.model.encoder, trust_remote_code=trust)
    encoder: Any = load_pretrained(config.model).eval()
    encoder.to("cuda" if torch.cuda.is_available() else "cpu")
    by_length = np.argsort([len(each) for each in names], kind="stable")  # reduces padding
    found = np.empty((len(names), encoder.config.hidden_size), np.float32)
    for start in range(0, len(names), _NAMES_PER_BATCH):
        chosen = by_length[start : start + _NAMES_PER_BATCH]
        batch = tokenizer(
            [names[i] for i in chosen], truncation=True, max_length=_MOST_TOKENS, padding=True, return_tensors="pt"
        ).to(encoder.device)
        with torch.inference_mode():
            hidden = encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
            found[chosen] = _mean_of_norm_one(hidden, batch["attention_mask"]).cpu().numpy()
    return found


def _mean_of_norm_one(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    from torch.nn.functional import normalize  # noqa: PLC0415

    return normalize((hidden_BTD * mask_BT.unsqueeze(-1)).sum(1), dim=-1)
