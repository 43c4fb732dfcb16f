"""Prepare a data set from raw texts and labels.

In: a raw form, read block by block (`cxml.formats`).

0. `lengths` settles how long a text may be, where the user leaves that open.
1. `inputs` settles what shapes the data set, and tells whether it is there already (`is_prepared`).
2. `passes` makes the data set in two passes: the first tokenises each block of rows, finds its terms and stages both
   (`staging`), then the counts of all blocks are added up; the second weighs the terms and writes the shards.
3. `choice` says who does the work on the blocks: this process (`engines`), or Ray workers (`ray_engine`), to the same
   bytes.
4. `work` is that work: pure functions of a block; `tokenizing` is a part of it.
5. `journal` notes what is done, so that a stopped run is gone on with.
6. `validation_split` holds out a validation split, `tree_import` takes over a label tree that another tool made.

Out: a folder that `cxml.data.ShardedDataset` opens, its manifest written last.
"""

from cxml.preparation.inputs import expected_fingerprint, is_prepared
from cxml.preparation.lengths import with_length
from cxml.preparation.passes import prepare
from cxml.preparation.tokenizing import load_tokenizer, tokenize

__all__ = ["expected_fingerprint", "is_prepared", "load_tokenizer", "prepare", "tokenize", "with_length"]
