"""The commands, each a function that takes its arguments; `localvit.__main__` has the list."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

# Where those are that share a module; each of the others is `main` in a module of its name.
SHARED = {"configs": "listings", "weights": "listings", "compare": "analyze"}
SHARED |= dict.fromkeys(("publish", "convert", "export"), "files")


def module_of(name: str) -> str:
    """Return the module of a command."""
    return f"{__name__}.{SHARED.get(name, name)}"


def find(name: str) -> Callable[..., Any]:
    """Import a command."""
    return getattr(import_module(module_of(name)), name if name in SHARED else "main")
