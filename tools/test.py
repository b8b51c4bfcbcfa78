"""Evaluates a checkpoint: `python tools/test.py CONFIG CHECKPOINT`, the same as `localvit test`."""

import _process  # noqa: F401 - settings that must stand before PyTorch starts

# isort: split
from localvit.commands.test import main

if __name__ == "__main__":
    main()
