"""The configs that come with the package: where they lie, and how they are found by name."""

from pathlib import Path

_PACKAGE = Path(__file__).parent.parent
PREFIX = f"{_PACKAGE.name}::"


def config_folder() -> Path:
    """The folder of all configs: put into the package by an installation (as OpenMMLab's are), else the checkout's."""
    installed = _PACKAGE / ".mim/configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def config_names() -> list[str]:
    """Names of all configs, without their suffix."""
    return sorted(path.stem for path in config_folder().glob("*.py"))


def find_config(path: str | Path) -> Path:
    """The file that is meant: an existing path, or the name of a config that comes with the package.

    Args:
        path: A path; or a name like `mask_rcnn_shuffle_t_coco` or `pretrain/gg_t_in1k`, with or without `.py` and
            `localvit_det::`.

    Returns:
        A path, which may not exist.
    """
    name = str(path)
    if not name.startswith(PREFIX) and Path(path).exists():
        return Path(path)
    name = name.removeprefix(PREFIX)
    packaged = config_folder() / (name if name.endswith(".py") else f"{name}.py")
    return packaged if packaged.is_file() else Path(path)
