"""From raw texts and labels to a prepared data set.

In: a raw form (`data_tools.formats` reads each into a `RawDataset`).

1. `prepare` tokenises every text once, fits tf-idf on the train texts, and writes Arrow shards and a manifest.
2. `is_prepared` tells whether that has been done already with the same inputs, and refuses another one's data.

Out: a folder that `cxml.data.ShardedDataset` opens.
"""

from data_tools.preparation.prepare import expected_fingerprint, is_prepared, prepare
from data_tools.preparation.tokenizing import load_tokenizer, tokenize

__all__ = ["expected_fingerprint", "is_prepared", "load_tokenizer", "prepare", "tokenize"]
