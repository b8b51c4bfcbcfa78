"""The name of what a part of a config builds."""

from __future__ import annotations

from typing import Any


def type_name(part: Any) -> str:
    """Return the bare name behind `type`, which may be a class or have a scope before it; empty where there is none.

    To exchange a part use `config.utils.registered`: a class of another package may have the same name.

    Args:
        part: A config, or the value of its `type`.
    """
    kind = part.get("type") if hasattr(part, "get") else part
    return str(getattr(kind, "__name__", kind or "")).rpartition(".")[2]
