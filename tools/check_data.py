"""Checks the data of a config: `python tools/check_data.py CONFIG`, the same as `localvit check`."""

import _process  # noqa: F401 - settings that must stand before PyTorch starts

# isort: split
from localvit.commands.check import main

if __name__ == "__main__":
    main()
