"""Where a run writes and what it loads."""

import tempfile
from pathlib import Path

from mmengine.config import Config

from ..checkpoint.read import check_is_checkpoint, split_key
from ..checkpoint.search import search
from ..config.parts import walk
from ..datasets.annotations import what_is_there
from ..errors import CheckpointError, ConfigError


def check_work_dir(cfg: Config) -> None:
    """Checks that `cfg.work_dir`, which need not exist yet, can be written.

    Raises:
        ConfigError: It cannot.
    """
    if cfg.get("work_dir") is None:
        return
    existing = work_dir = Path(cfg.work_dir).absolute()
    try:
        str(work_dir).encode()
    except UnicodeEncodeError:  # PyTorch reads and writes no such paths; a training would end at its first checkpoint
        raise ConfigError(
            f"The name of the work-dir {work_dir} is not in UTF-8: name another one by --work-dir."
        ) from None
    while not existing.exists():
        existing = existing.parent
    try:
        # Trying is the only test that holds for root, read-only mounts and full disks alike.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ConfigError(
            f"The work-dir {work_dir} cannot be written ({existing}: {error.strerror}): "
            "give another one with --work-dir."
        ) from error


def checkpoint_to_resume(cfg: Config) -> str | None:
    """The checkpoint that a training goes on from; None where it begins."""
    if not cfg.get("resume"):
        return None
    if cfg.get("load_from"):
        return str(cfg.load_from)
    found = search(cfg.get("work_dir") or ".").found
    return next((str(one.path) for one in found if one.resumable), None)


def check_checkpoints(cfg: Config, train: bool) -> None:
    """Checks that the local checkpoints which a run will load exist and begin like checkpoints.

    Raises:
        CheckpointError: One does not.
    """
    named = {key: cfg.get(key) for key in ("load_from", "resume")}
    if train:  # a test never initialises weights
        for path, node in walk(cfg.get("model"), "model"):
            if node.get("type") in ("Pretrained", "PretrainedInit"):
                named[f"{path}.checkpoint"] = node.get("checkpoint")
    for key, checkpoint in named.items():
        if not isinstance(checkpoint, str) or "://" in checkpoint:
            continue
        file = Path(split_key(checkpoint)[0]).expanduser()
        if file.is_file():
            check_is_checkpoint(file)
            continue
        file = file.absolute()
        what = f"is a folder, not a file: {file}" if file.is_dir() else f"does not exist: {file}"
        raise CheckpointError(f"The checkpoint of {key} {what} ({what_is_there(file)}).")
