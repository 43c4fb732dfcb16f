"""`python -m cxml.serve` runs the command `cxml.commands.serve`."""

import sys

from cxml.commands.serve import main

if __name__ == "__main__":
    sys.exit(main())
