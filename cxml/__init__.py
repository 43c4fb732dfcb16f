"""cxml: extreme multi-label text classification with CascadeXML, trained at any scale.

The data's way, left to right; each arrow is a stage that is made once and reused:

    raw text + labels --data_tools--> Arrow shards --cxml.tree--> label tree --cxml.training--> model --> metrics

Packages, in the order in which the data meets them: `data` (shards to batches), `tree` (labels to clusters), `model`
(the cascade), `optim`, `parallel` (processes, DeepSpeed), `checkpoint`, `training`, `metrics`, `report`. `pipeline`
runs the stages; `python -m cxml.train` is its command line.
"""
