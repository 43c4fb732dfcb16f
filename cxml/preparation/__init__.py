"""From raw texts and labels to a prepared data set.

In: a raw form, read block by block (`cxml.data_tools.formats`).

0. `lengths` settles how long a text may be, where the user leaves that open.
1. `inputs` settles what shapes the data set, and tells whether it is there already (`is_prepared`).
2. `prepare` makes two passes: the first tokenises each block of rows, finds its terms and stages both (`staging`), then
   the counts of all blocks are added up; the second weighs the terms and writes the shards.
3. `engines` says who does the work on the blocks: this process, or Ray workers (`ray_engine`), to the same bytes.
4. `work` is that work: pure functions of a block; `terms` and `tokenizing` are its parts.
5. `progress` notes what is done, so that a stopped run is gone on with.

Out: a folder that `cxml.data.ShardedDataset` opens, its manifest written last.
"""

from cxml.data_tools.preparation.inputs import expected_fingerprint, is_prepared
from cxml.data_tools.preparation.lengths import with_length
from cxml.data_tools.preparation.prepare import prepare
from cxml.data_tools.preparation.tokenizing import load_tokenizer, tokenize

__all__ = ["expected_fingerprint", "is_prepared", "load_tokenizer", "prepare", "tokenize", "with_length"]
