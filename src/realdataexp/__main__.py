"""``python -m realdataexp``: the same as the console script."""

import sys

from realdataexp.cli import main

if __name__ == "__main__":
    sys.exit(main())
