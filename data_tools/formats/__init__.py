"""Raw data sets, one module per form: each turns files or a package into a `RawDataset`.

In: `data.source` of the config. `read_source` reads and checks everything; broken input is refused with its place.
`source_facts` identifies the raw data (hashes, versions) without reading it into memory.
Out: texts, label matrices and label names.
"""

from data_tools.formats.raw import RawDataset, RawSplit
from data_tools.formats.sources import read_source, source_facts

__all__ = ["RawDataset", "RawSplit", "read_source", "source_facts"]
