"""`cxml.data_tools` under the name of this folder: in a clone of the repository, `python -m data_tools.inspect` works.

Nothing else is here, and it is not installed: other projects have packages of this name.
"""

from cxml.data_tools import __path__ as __path__
