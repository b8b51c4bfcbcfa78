"""Settings of a tool's process that must stand before PyTorch starts: tools import this module first."""

from localvit.process import set_up

set_up()
