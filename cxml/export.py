"""`python -m cxml.export` runs the command `cxml.commands.export`."""

import sys

from cxml.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
