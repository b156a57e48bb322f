"""`python -m candidfeed` is the command `candidfeed`."""

import sys

from candidfeed.cli import main

if __name__ == "__main__":
    sys.exit(main())
