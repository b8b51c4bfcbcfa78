"""Publishes a detector: `python tools/publish_model.py CHECKPOINT`, the same as `localvit publish`."""

import _process  # noqa: F401 - settings that must stand before PyTorch starts

# isort: split
from localvit.commands.publish import main

if __name__ == "__main__":
    main()
