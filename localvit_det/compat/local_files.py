"""MMEngine's local files are there whole or not at all: predictions, drawn images, dumped configs.

It writes straight under the final name: a kill or a full disk in the middle leaves a torn file there.
Checkpoints are written by :mod:`localvit_det.checkpoint.write`.
"""

import os
from pathlib import Path

from mmengine.config import Config
from mmengine.fileio import LocalBackend

from ..files import atomic_file

_dump_other = Config.dump


def install() -> None:
    """Puts the methods below in the place of the backend's; doing so again changes nothing."""
    LocalBackend.put = _put
    LocalBackend.put_text = _put_text
    Config.dump = _dump


def _put(self: LocalBackend, obj: bytes, filepath: str | os.PathLike) -> None:
    """Writes bytes; folders are made."""
    path = Path(filepath)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, flush=False) as file:
        file.write(obj)


def _put_text(self: LocalBackend, obj: str, filepath: str | os.PathLike, encoding: str = "utf-8") -> None:
    """Writes text; folders are made."""
    _put(self, obj.encode(encoding), filepath)


def _dump(self: Config, file: str | os.PathLike | None = None) -> str | None:
    """Write or return the config as MMEngine does; its .py files alone do not go through the backend."""
    if str(file).endswith(".py"):
        return _put_text(None, self.pretty_text, file)
    return _dump_other(self, file)
