"""The one place that makes names of outputs: below their folder, unique, and valid on every system."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata

_LONGEST = 180  # bytes of a name: file systems take 255, and a number, a suffix and a draft's marks have to fit
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # devices of Windows


def safe_name(text: str, default: str = "_") -> str:
    """Return a text as the name of one file: no separators, no control characters, nothing that a system reserves.

    Names that all systems take stay as they are.

    Args:
        default: Where nothing is left of the text.
    """
    text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode())
    text = "".join("_" if char in '<>:"/\\|?*' or not char.isprintable() else char for char in text)
    text = text.rstrip(" .").lstrip(" ") or default
    if text.startswith("."):
        text = f"_{text.lstrip('.')}"  # else hidden, or the parent folder
    if _RESERVED.fullmatch(text):
        text = f"_{text}"
    if len(text.encode()) > _LONGEST:
        stem, suffix = os.path.splitext(text)
        suffix = suffix if len(suffix.encode()) <= 10 else ""
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        text = f"{stem.encode()[: _LONGEST - 20].decode(errors='ignore')}~{digest}{suffix}"
    return text
