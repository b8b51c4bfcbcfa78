"""Reads the file of a config: a program in a .py file, data in a checkpoint."""

from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.utils import import_modules_from_strings

from ..checkpoint.embedded_config import read_config
from ..checkpoint.exported_info import is_exported, read_info
from ..checkpoint.publish import CHECKPOINT_SUFFIXES
from ..checkpoint.read import load_weights_only
from ..compat.extras import require_named
from ..errors import ConfigError, UserError, did_you_mean
from .packaged import config_names, find_config

EXPORT_SUFFIXES = (".onnx", ".xml", ".pt2")  # and .pt, as checkpoints have


def read_config_file(path: Path, trusted: bool) -> Config:
    """Reads a config, or the one inside a checkpoint.

    Args:
        path: A file, or what else `find_config` knows.
        trusted: Let a config inside a checkpoint name imports, types and addresses of others.

    Raises:
        ConfigError: The file is missing or cannot be read.
        CheckpointError: Likewise for a checkpoint, or its config is no plain data.
    """
    path = find_config(path)
    if not path.is_file():
        names = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        missing = "" if path.parent.is_dir() else f", nor does the folder {path.parent.absolute()}"
        hint = did_you_mean(path.name, [*names, *config_names()])
        raise ConfigError(
            f"The config {path.absolute()} does not exist{missing}{hint}; `localvit configs` lists those that are "
            "known by their names."
        )
    try:
        if path.suffix in (*CHECKPOINT_SUFFIXES, *EXPORT_SUFFIXES):
            return _read_embedded(path, trusted)
        return Config.fromfile(path)
    except UserError:
        raise
    # A config is a program: whatever it raises is a mistake in it.
    except Exception as error:
        if isinstance(error, ModuleNotFoundError):
            require_named(str(error))  # a parent of the config is in a sister library
        if reason := _told(error):  # what importing our own package found
            raise reason from error
        raise ConfigError(f"The config {path} cannot be read: {one_line(error)}.") from error


def _read_embedded(path: Path, trusted: bool) -> Config:
    content = {"meta": {"cfg": read_info(path).config}} if is_exported(path) else load_weights_only(path)
    values, left_out = read_config(content, path, trusted)
    for sentence in left_out:
        print_log(f"{path}: {sentence}", "current")
    cfg = Config(values)
    if cfg.get("custom_imports"):
        import_modules_from_strings(**cfg.custom_imports)
    return cfg


def _told(error: BaseException | None) -> UserError | None:
    """The first error behind another one that is written for users; MMEngine wraps what imports raise."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def one_line(error: BaseException) -> str:
    """The kind and the message of an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".rstrip(".: ")
