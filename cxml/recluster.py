"""`python -m cxml.recluster` runs the command `cxml.commands.recluster`."""

import sys

from cxml.commands.recluster import main

if __name__ == "__main__":
    sys.exit(main())
