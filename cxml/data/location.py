"""Where a run's prepared data lies."""

from __future__ import annotations

from cxml import storage
from cxml.config import Config


def data_url(config: Config) -> str:
    """Folder of the prepared data set: `data.directory`, or `data` inside the run's output."""
    return config.data.directory or storage.join(config.output, "data")
