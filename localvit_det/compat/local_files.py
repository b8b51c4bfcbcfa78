"""MMEngine's local files are there whole or not at all: predictions, drawn images, dumped configs.

Its backend writes straight under the final name: a kill or a full disk in the middle leaves a torn file there.
Checkpoints have a road of their own, :mod:`localvit_det.checkpoint.write`.
"""

import os
from pathlib import Path

from mmengine.fileio import LocalBackend

from ..files import atomic_file


def install() -> None:
    """Puts the methods below in the place of the backend's; doing so again changes nothing."""
    LocalBackend.put = _put
    LocalBackend.put_text = _put_text


def _put(self: LocalBackend, obj: bytes, filepath: str | os.PathLike) -> None:
    """Writes bytes; folders are made."""
    path = Path(filepath)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, flush=False) as file:
        file.write(obj)


def _put_text(self: LocalBackend, obj: str, filepath: str | os.PathLike, encoding: str = "utf-8") -> None:
    """Writes text; folders are made."""
    _put(self, obj.encode(encoding), filepath)
