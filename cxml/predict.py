"""`python -m cxml.predict` runs the command `cxml.commands.predict`."""

import sys

from cxml.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
