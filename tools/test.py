"""Evaluates a checkpoint: `python tools/test.py CONFIG CHECKPOINT`, the same as `localvit test`."""

import _process  # settings that must stand before PyTorch starts

_process.print_startup("test")

# isort: split
from localvit.commands.test import main  # noqa: E402

if __name__ == "__main__":
    main()
