"""The arguments of each command: `read_COMMAND(argv)`, without importing PyTorch or MMDetection."""

import argparse
import importlib
from collections.abc import Sequence

from ..commands import module_of

# Those of other commands, which need neither of the two, stand with the command.
MODULES = {
    **dict.fromkeys(("train", "test", "compare", "predict", "export", "publish"), "localvit.arguments.models"),
    **dict.fromkeys(("analyze", "check", "convert"), "localvit.arguments.data"),
}


def read(command: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """Read and check the command line of a command."""
    module = importlib.import_module(MODULES.get(command) or module_of(command))
    return getattr(module, f"read_{command}")(argv)
