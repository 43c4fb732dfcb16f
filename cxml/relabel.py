"""`python -m cxml.relabel` runs the command `cxml.commands.relabel`."""

import sys

from cxml.commands.relabel import main

if __name__ == "__main__":
    sys.exit(main())
