"""The number of texts per tokenizer call changes no token.

Oracle: the `transformers` tokenizer applied to one text at a time.
"""

import pytest

from cxml.config import SourceConfig, config_from_dict
from cxml.formats import read_source
from cxml.preparation import load_tokenizer, tokenize


@pytest.mark.parametrize("characters", [1, 100, 1000, 10**9])
def test_how_many_texts_go_into_a_call_changes_no_token(wordnet_slice, monkeypatch, characters):
    config = config_from_dict({"auto": [], "output": "unused", "data": {"source": {"path": str(wordnet_slice)}}})
    tokenizer, _ = load_tokenizer(config)
    texts = read_source(SourceConfig(path=str(wordnet_slice))).splits["train"].texts
    monkeypatch.setattr("cxml.data.tokenizing._CHARACTERS_PER_CALL", characters)
    found = tokenize(tokenizer, texts, 16)
    one_by_one = [tokenizer(text, truncation=True, max_length=16)["input_ids"] for text in texts]
    assert [len(ids) for ids in one_by_one] == found.lengths.tolist()
    assert [token for ids in one_by_one for token in ids] == found.values.tolist()
