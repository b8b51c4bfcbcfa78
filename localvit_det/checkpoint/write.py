"""MMEngine's local files are there whole or not at all: checkpoints, predictions, drawn images, dumped configs.

Its backend writes straight under the final name: a kill or a full disk in the middle leaves a torn file there.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mmengine.config import Config
from mmengine.fileio import LocalBackend

from ..errors import OutputError
from ..files import atomic_file
from .publish import CHECKPOINT_SUFFIXES

_mmengine_dump = Config.dump


def put(self: LocalBackend, obj: bytes, filepath: str | os.PathLike) -> None:
    """Write bytes; folders are made.

    Raises:
        OutputError: A checkpoint cannot be written; an older file of the name is left as it was.
    """
    path = Path(filepath)
    is_checkpoint = path.suffix in CHECKPOINT_SUFFIXES
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, flush=is_checkpoint) as file:
            file.write(obj)
    except OSError as error:
        if not is_checkpoint:
            raise
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
        raise OutputError(
            f"The checkpoint {path} of {len(obj) / 1e6:,.1f} MB could not be written ({error.strerror or error}; "
            f"{free / 1e6:,.1f} MB are free there): earlier checkpoints are intact; make room, then go on with "
            "--resume."
        ) from error


def dump(self: Config, file: str | os.PathLike | None = None) -> str | None:
    """Write or return a config as MMEngine does; of its files only those with the ending .py bypass the backend."""
    if not str(file).endswith(".py"):
        return _mmengine_dump(self, file)
    LocalBackend().put_text(self.pretty_text, file)
    return None


def put_text(self: LocalBackend, obj: str, filepath: str | os.PathLike, encoding: str = "utf-8") -> None:
    """Write text; folders are made."""
    put(self, obj.encode(encoding), filepath)
