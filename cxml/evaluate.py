"""`python -m cxml.evaluate` runs the command `cxml.commands.evaluate`."""

import sys

from cxml.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
