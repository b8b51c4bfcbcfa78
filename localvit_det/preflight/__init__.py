"""Checks before the first iteration: each mistake of a user ends in one sentence with cause and fix."""

from collections.abc import Callable, Sequence

from mmengine.config import Config

from ..datasets.annotations import forget_annotations
from ..errors import UserError, raise_all
from .classes import check_num_classes, check_saved_classes
from .components import check_backbone, check_built_keys, check_keys, check_types
from .data import find_problems
from .resources import check_checkpoints, check_processes, check_space, check_work_dir, checkpoint_to_resume
from .start import check_start

__all__ = ["check_config"]


def check_config(cfg: Config, train: bool = True, before: Sequence[UserError] = ()) -> None:
    """Check everything, and raise all mistakes at once; of a good training only what it starts from is said.

    Args:
        cfg: A config from `load_config`; `work_dir`, `load_from` and `resume` as the runner sees them.
        train: Check what training needs (train and val); else what testing needs (test).
        before: Mistakes that are known already.

    Raises:
        UserError: The first mistake (ConfigError, DataError, CheckpointError or OutputError), with the `others`.
    """
    splits = ("train", "val") if train else ("test",)
    resumed = checkpoint_to_resume(cfg) if train else None
    found: list[UserError] = []

    def passes(check: Callable[..., object], *arguments: object) -> bool:
        try:
            check(*arguments)
        except UserError as mistake:
            found.append(mistake)
            return False
        return True

    passes(check_processes, cfg)
    passes(check_work_dir, cfg)
    passes(check_checkpoints, cfg, train)
    passes(check_built_keys, cfg, train)
    keys = passes(check_keys, cfg)
    if passes(check_types, cfg) and keys and passes(check_backbone, cfg):
        all(passes(check_num_classes, cfg, split) for split in splits)  # of both splits it would be the same
        if train and not found:
            passes(check_saved_classes, cfg, resumed)
    try:
        found += find_problems(cfg, *splits)
    finally:
        forget_annotations()
    raise_all([*before, *found])
    if train:
        check_start(cfg, resumed)
        check_space(cfg)
