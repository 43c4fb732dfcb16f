"""Build the tree on Ray workers, bit-identical to the tree of a single process.

Input: a prepared data set whose shards every worker can read, and a folder (any fsspec URL) for progress.

1. `parts`: label features in parts of consecutive tree positions, each a pure function of the data set.
2. `holder`: one worker. It makes parts. Then it holds the rows of a range of positions, and scores, counts and sums its
   rows of the node that all workers split together. Finally it finishes whole branches.
3. `fleet`: the workers as Ray actors. A dead worker is replaced.
4. `build`: the driver. It assigns parts, splits the top of the tree with all workers, and assigns the branches.
5. `journal`: finished work on disk, so that any number of workers can resume an interrupted build.

Output: the order of the labels, from which `cxml.tree.build` makes the tree.
"""

from cxml.tree.distributed.journal import BuildJournal

__all__ = ["BuildJournal"]
