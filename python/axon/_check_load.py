"""The child that loads a model for trial: `python -m axon._check_load MODEL LIBRARY BYTES SECONDS`."""

from __future__ import annotations

import sys

from axon import _axon

__all__: list[str] = []

if __name__ == "__main__":
    _axon.check_load(sys.argv[1:])
