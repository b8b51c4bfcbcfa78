"""Checks before the first iteration: each mistake of a user ends in one sentence with cause and fix."""

from mmengine.config import Config

from ..datasets.annotations import forget_annotations
from .classes import check_classes, check_num_classes, check_saved_classes
from .data import check_data
from .files import check_checkpoints, check_work_dir
from .keys import check_built_keys
from .model import check_backbone, check_keys, check_types
from .processes import check_processes
from .space import check_space
from .start import check_start

__all__ = ["check_config"]


def check_config(cfg: Config, train: bool = True) -> None:
    """Raises on the first mistake, the cheap checks first; of a good training only what it starts from is said.

    Args:
        cfg: A config from `load_config`; `work_dir`, `load_from` and `resume` as the runner sees them.
        train: Check what training needs (train and val); else what testing needs (test).

    Raises:
        UserError: The mistake (ConfigError, DataError, CheckpointError or OutputError).
    """
    splits = ("train", "val") if train else ("test",)
    check_processes(cfg)
    check_work_dir(cfg)
    check_checkpoints(cfg, train)
    check_types(cfg)
    check_keys(cfg)
    check_built_keys(cfg, train)
    check_backbone(cfg)
    for split in splits:
        check_num_classes(cfg, split)
    if train:
        check_saved_classes(cfg)
    try:
        for split in splits:
            check_data(cfg, split, check_classes)
    finally:
        forget_annotations()
    if train:
        check_start(cfg)
        check_space(cfg)
