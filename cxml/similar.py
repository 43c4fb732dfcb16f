"""`python -m cxml.similar` runs the command `cxml.commands.similar`."""

import sys

from cxml.commands.similar import main

if __name__ == "__main__":
    sys.exit(main())
