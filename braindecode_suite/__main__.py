"""``python -m braindecode_suite``: the same as the ``bds`` command."""

import sys

from braindecode_suite.cli import main

if __name__ == "__main__":
    sys.exit(main())
