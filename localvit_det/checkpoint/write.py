"""Checkpoints reach the disk whole or not at all, whoever saves them.

MMEngine writes straight under the final name: a kill or a full disk in the middle leaves a torn file there.
Related: https://github.com/open-mmlab/mmengine/issues/1519 asks the same for interrupted downloads.
"""

import io
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import mmengine.runner
import torch
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.runner import checkpoint as mmengine_checkpoint

from ..errors import OutputError
from ..files import atomic_file

_mmengine_save_checkpoint = mmengine_checkpoint.save_checkpoint


def install() -> None:
    """Puts `save_checkpoint` in the place of MMEngine's; doing so again changes nothing."""
    for module in (mmengine_checkpoint, mmengine.runner, sys.modules["mmengine.runner.runner"]):
        module.save_checkpoint = save_checkpoint


def save_checkpoint(
    checkpoint: dict[str, Any],
    filename: str,
    file_client_args: dict | None = None,
    backend_args: dict | None = None,
) -> None:
    """Writes a checkpoint, with MMEngine's signature; files elsewhere than on a local disk go MMEngine's way.

    Raises:
        OutputError: The disk is full, or the place cannot be written; an older file of the name is left as it was.
    """
    remote = "://" in str(filename) or file_client_args is not None
    if remote or not isinstance(get_file_backend(filename, backend_args=backend_args), LocalBackend):
        _mmengine_save_checkpoint(checkpoint, filename, file_client_args, backend_args)
        return
    # Through memory: PyTorch's own writer turns a full disk into an internal assertion.
    content = io.BytesIO()
    torch.save(checkpoint, content)
    path = Path(filename)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(content.getbuffer())
    except OSError as error:
        raise OutputError(_sentence(path, content.getbuffer().nbytes, error)) from error


def _sentence(path: Path, size: int, error: OSError) -> str:
    free = shutil.disk_usage(path.parent).free if os.path.isdir(path.parent) else 0
    return (
        f"The checkpoint {path} of {size / 1e6:,.1f} MB could not be written ({error.strerror or error}; "
        f"{free / 1e6:,.1f} MB are free there): earlier checkpoints are intact; make room, then go on with --resume."
    )
