"""`python -m calibrax`: the command line."""

import sys

from calibrax.cli import main

if __name__ == "__main__":
    sys.exit(main())
