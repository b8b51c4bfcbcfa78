"""Former names, which stay for one release: each warns, and says what it is called now."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

# In configs: classes and their arguments.
RENAMED_IN_CONFIGS = {"LeanFCNMaskHead": "MemoryEfficientFCNMaskHead", "lean": "recompute_activations"}


def warn_renamed(former: str, now: str) -> None:
    """Issue a DeprecationWarning for a former name."""
    message = f"{former} is now called {now}; the former name goes with the next release."
    warnings.warn(message, DeprecationWarning, stacklevel=3)


def former_names(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module (PEP 562) that answers to former names.

    Args:
        module: The module's ``__name__``.
        names: Where each is now, as ``package.module:name``.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, _, now = names[name].partition(":")
        warn_renamed(f"{module}.{name}", f"{home}.{now}")
        return getattr(import_module(home), now)

    return find
