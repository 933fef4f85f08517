"""`python -m axon` is the command `axon`."""

from __future__ import annotations

import sys

from axon.cli import main

if __name__ == "__main__":
    sys.exit(main())
