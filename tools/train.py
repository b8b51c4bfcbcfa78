"""Trains a detector: `python tools/train.py CONFIG`, the same as `localvit train`."""

import _process  # settings that must stand before PyTorch starts

_process.print_startup("train")

# isort: split
from localvit.commands.train import main  # noqa: E402

if __name__ == "__main__":
    main()
