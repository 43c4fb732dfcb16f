"""`python -m cxml.tune` runs the command `cxml.commands.tune`."""

import sys

from cxml.commands.tune import main

if __name__ == "__main__":
    sys.exit(main())
