"""The library's modules that need neither PyTorch nor MMDetection, without those that do.

Importing `localvit_det` checks the installation and registers all it has, which takes seconds. Arguments, names of
configs and missing packages are looked at before that.
"""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_NAME = "localvit_det"
_LIGHT = (_NAME, "localvit.arguments", "localvit.commands")  # their modules hold what they took from the library


@contextmanager
def not_run() -> Iterator[None]:
    """Let modules of the library be imported while the package itself is not run.

    Nothing of it stays: what is imported behind the block is the library as everyone gets it. Where that is imported
    already, nothing is done.
    """
    spec = importlib.util.find_spec(_NAME)
    if _NAME in sys.modules or spec is None:
        yield
        return
    sys.modules[_NAME] = importlib.util.module_from_spec(spec)  # it knows where its modules are
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name in _LIGHT or name.startswith(tuple(f"{x}." for x in _LIGHT))]:
            del sys.modules[name]
