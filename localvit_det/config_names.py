"""Names of configs and checkpoints, and options as they are typed; they need neither PyTorch nor MMDetection."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import CheckpointError, ConfigError, did_you_mean

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
EXPORTED_SUFFIXES = (".onnx", ".xml", ".pt2", ".pt")
_PACKAGE = Path(__file__).parent
PREFIX = f"{_PACKAGE.name}::"
_AS_DATA = ", and give a folder of data by --cfg-options data_root=FOLDER classes=auto"


def config_folder() -> Path:
    """Return the folder of all configs: in the package after an installation (as OpenMMLab's), else in the checkout."""
    installed = _PACKAGE / ".mim/configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def config_names() -> list[str]:
    """Return the names of all configs, without their suffix."""
    return sorted(path.stem for path in config_folder().glob("*.py"))


def find_config(path: str | Path) -> Path:
    """Return the file that is meant: an existing path, or the name of a config that comes with the package.

    Such a name is like `mask_rcnn_shuffle_t_coco` or `pretrain/gg_t_in1k`, with or without `.py` and `localvit_det::`.
    What is returned may not exist.
    """
    name = str(path)
    if not name.startswith(PREFIX) and Path(path).exists():
        return Path(path)
    name = name.removeprefix(PREFIX)
    packaged = config_folder() / (name if name.endswith(".py") else f"{name}.py")
    return packaged if packaged.is_file() else Path(path)


def split_key(path: str | os.PathLike) -> tuple[str, str]:
    """Return the path or address of a checkpoint, and the key of the weights that are wanted ('' for the usual)."""
    name = os.fspath(path)
    file, _, key = name.rpartition("#")
    return (file, key) if file and not Path(name).expanduser().exists() else (name, "")


def existing_config(path: str | Path) -> Path:
    """Return the file or the work dir that is meant by what `find_config` knows, or by the path of a checkpoint.

    Raises:
        ConfigError: There is none, or it is something else.
        CheckpointError: Likewise for a checkpoint.
    """
    path = find_config(path)
    if path.exists():
        if path.suffix != ".py" and (what := _what_else(path)):
            raise ConfigError(f"{path} is {what}, and no config: name one (`localvit configs` lists them){_AS_DATA}.")
        return path
    names = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
    missing = "" if path.parent.is_dir() else f", nor does the folder {path.parent.absolute()}"
    hint = did_you_mean(path.name, [*names, *config_names()])
    what = f"{path.absolute()} does not exist{missing}{hint}"
    if path.suffix in (*CHECKPOINT_SUFFIXES, *EXPORTED_SUFFIXES):
        raise CheckpointError(f"The file {what}: correct its path.")
    raise ConfigError(f"The config {what}; `localvit configs` lists those that are known by their names.")


def _what_else(path: Path) -> str | None:
    """Return what a path is that is neither a config nor weights nor a work dir; None where it may be one."""
    known = (".py", ".json", *CHECKPOINT_SUFFIXES, *EXPORTED_SUFFIXES)
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file()]
        data = bool(files) and not any(file.suffix in known[:1] + known[2:] for file in files)
        return "a folder of data" if data and not any(file.name == "last_checkpoint" for file in files) else None
    if path.suffix in (".yaml", ".yml"):
        text = path.read_text(encoding="utf-8", errors="replace")
        return None if "model" in text else "a file of YOLO's settings"
    return None if path.suffix in known else f"a file of the kind {path.suffix or path.name}"


def type_name(part: Any) -> str:
    """Return the bare name behind the `type` of a config, or behind its value; empty where there is none.

    It may be a class or have a scope before it. To exchange a part use `config.utils.registered`: a class of another
    package may have the same name.
    """
    kind = part.get("type") if hasattr(part, "get") else part
    return str(getattr(kind, "__name__", kind or "")).rpartition(".")[2]


HELP = """override settings of the config: data_root="/data/my set" classes=auto optim_wrapper.optimizer.lr=1e-4.
VALUE is a number, True, False or None; a [list], a (tuple) or a {dict: of them}, in which words need no quotes;
'"a text in quotes"'; or else the text as it is, with its spaces, commas and brackets. A list without its brackets
(a,b) is taken where the config has a list now, for classes, and for numbers. Paths (data_root, ann_file, load_from
and the like) are always texts"""


class Typed(str):
    """A value as it was typed, which still has to be read by the config's present one."""


class OptionsAction(argparse.Action):
    """Collect `KEY=VALUE` in a dict, over all uses of the option; raise ConfigError where `=` or the key is missing."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        """Add what one use of the option gives."""
        options = dict(getattr(namespace, self.dest, None) or {})
        for value in values or ():
            key, equals, typed = str(value).partition("=")
            if not equals or not key.strip():
                raise ConfigError(
                    f"The option '{value}' of {option_string} is not KEY=VALUE: put quotes round a value with spaces, "
                    f"{option_string} 'data_root=/data/my set'."
                )
            options[key.strip()] = Typed(typed)
        setattr(namespace, self.dest, options)


def add_short(parser: argparse.ArgumentParser, helps: Mapping[str, tuple[str, str]]) -> None:
    """Add short settings (`config.short_settings`) as options of a command.

    Args:
        helps: What stands for the value, and what the setting does, by names.
    """
    for name, (value, help) in helps.items():
        as_option = f"{name}={{}}".format  # `--epochs 3` is `--cfg-options epochs=3`
        parser.add_argument(
            f"--{name}", nargs=1, type=as_option, action=OptionsAction, dest="cfg_options", metavar=value, help=help
        )
