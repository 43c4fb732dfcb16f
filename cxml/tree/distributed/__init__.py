"""The tree on Ray workers, bit for bit the one that a single process builds.

In: a prepared data set whose shards every worker can reach, and a folder (any fsspec URL) for what is finished.

1. `parts`: label features in parts of consecutive tree positions, each a pure function of the data set.
2. `holder`: what one worker does. It makes parts; then it holds the rows of a run of positions, and scores, counts and
   adds up its rows of the node that all split together; then it finishes whole branches.
3. `fleet`: the workers as Ray actors; one that dies is replaced.
4. `build`: the driver. It deals out parts, splits the top of the tree with all workers, deals out the branches.
5. `progress`: what is finished, on disk, so that a stopped build is gone on with, by any number of workers.

Out: the order of the labels. `cxml.tree.build` makes the tree of it.
"""

from cxml.tree.distributed.progress import Progress

__all__ = ["Progress"]
