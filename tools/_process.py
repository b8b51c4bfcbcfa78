"""Settings of a tool's process that must stand before PyTorch starts: tools import this module first."""

from localvit.process import print_startup, set_up  # noqa: F401

set_up()
