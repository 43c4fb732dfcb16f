"""Data sets before training: make them from raw texts, look at them, check them, cut them.

In: raw texts and labels (`cxml.data_tools.formats` reads each form), or a prepared data set.

1. `preparation` makes the prepared data set: tokens, tf-idf, Arrow shards, and the manifest last.
2. `checking` reads one whole and checks all that the format promises.
3. `statistics` counts and draws, `splitting` holds out a validation split.
4. `tree_statistics` looks at a label tree, `tree_import` takes over one made elsewhere.

Out: a folder that `cxml.data.ShardedDataset` opens. Each module named after a verb or a thing to make is a command:
`python -m cxml.data_tools.prepare`, `.validate`, `.inspect`, `.split`, `.propensity`, `.tree_report`, `.import_tree`;
`--help` documents each.
"""
