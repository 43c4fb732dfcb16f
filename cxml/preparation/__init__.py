"""Prepare a data set from raw texts and labels.

Input: a raw form, read block by block (`cxml.formats`).

0. `lengths` chooses the maximum length of texts if the user leaves it open.
1. `inputs` collects all inputs of the data set, and checks whether it already exists (`is_prepared`).
2. `passes` makes the data set in two passes. The first tokenises each block of rows, finds its terms and stages both
   (`staging`); then the counts of all blocks are added up. The second weights the terms and writes the shards.
3. `choice` selects the engine of the work: this process (`engines`) or Ray workers (`ray_engine`), with byte-identical
   results.
4. `work` contains the work as pure functions of a block; `tokenizing` is a part of it.
5. `journal` records finished work, so that an interrupted preparation resumes.
6. `validation_split` holds out a validation split, `tree_import` imports a label tree from another tool.

Output: a folder that `cxml.data.ShardedDataset` opens, its manifest written last.
"""

from cxml.preparation.inputs import expected_fingerprint, is_prepared
from cxml.preparation.lengths import with_length
from cxml.preparation.passes import prepare
from cxml.preparation.tokenizing import load_tokenizer, refuse_too_long, tokenize

__all__ = [
    "expected_fingerprint",
    "is_prepared",
    "load_tokenizer",
    "prepare",
    "refuse_too_long",
    "tokenize",
    "with_length",
]
