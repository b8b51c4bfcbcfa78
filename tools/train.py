"""Trains a detector: `python tools/train.py CONFIG`, the same as `localvit train`."""

import _process  # noqa: F401 - settings that must stand before PyTorch starts

# isort: split
from localvit.commands.train import main

if __name__ == "__main__":
    main()
