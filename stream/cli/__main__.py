"""`python -m stream.cli` is the command `samstream`."""

import sys

from stream.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
