"""Converts a checkpoint: `python tools/convert_checkpoint.py SOURCE TARGET`, the same as `localvit convert`."""

import _process  # noqa: F401 - settings that must stand before PyTorch starts

# isort: split
from localvit.commands.convert import main

if __name__ == "__main__":
    main()
