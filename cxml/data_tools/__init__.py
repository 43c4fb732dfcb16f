"""`python -m cxml.data_tools.NAME` runs `cxml.commands.data.NAME`: this package finds its modules there."""

from cxml.commands.data import __path__ as __path__
