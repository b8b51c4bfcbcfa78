"""Tells the loading of images what to do with broken ones, as the top level of the config says."""

from collections.abc import Iterator

import torch
from mmdet.registry import HOOKS
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from torch import Tensor

from ..datasets.annotations import MAX_PIXELS
from ..datasets.images import pixel_range_of
from ..datasets.load_image import MAX_BROKEN, LoadImageFromFile
from ..errors import ConfigError, DataError


@HOOKS.register_module()
class BrokenImagesHook(Hook):
    """Apply `broken_images`, `max_broken_images`, `max_pixels` and `pixel_range` of the config; `load_config` adds it.

    It acts on the loaded datasets, because the settings are no part of a pipeline: inference builds other transforms
    from that.
    """

    priority = "VERY_HIGH"  # before data workers are started

    def before_run(self, runner: Runner) -> None:
        """Set what every transform that loads images does.

        Raises:
            ConfigError: `pixel_range` has no effect.
        """
        pixel_range = pixel_range_of(runner.cfg.get("pixel_range"))
        self._unusable: dict[str, list[Tensor]] = {}
        for name in ("_train_loop", "_val_loop", "_test_loop"):
            loop = getattr(runner, name)
            if not isinstance(loop, BaseLoop):
                continue
            transforms = list(loading_transforms(loop.dataloader.dataset))
            if pixel_range and not any(transform.imdecode_backend == "cv2" for transform in transforms):
                raise ConfigError(
                    "pixel_range has no effect on images that are not read by LoadImageFromFile of a detector with the "
                    "backend cv2: leave it out."
                )
            for transform in transforms:
                transform.on_broken = runner.cfg.get("broken_images") or "skip"
                transform.max_broken = runner.cfg.get("max_broken_images", MAX_BROKEN)
                transform.max_pixels = runner.cfg.get("max_pixels", MAX_PIXELS)
                transform.pixel_range = pixel_range
                transform.evaluates = name != "_train_loop"
                if transform.evaluates:
                    # In shared memory, where data workers mark them.
                    transform.unusable = torch.zeros(len(loop.dataloader.dataset), dtype=torch.uint8).share_memory_()
                    self._unusable.setdefault(name, []).append(transform.unusable)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Refuse a validation without an image."""
        self._check(runner.val_loop, "_val_loop")

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Refuse a test without an image."""
        self._check(runner.test_loop, "_test_loop")

    def _check(self, loop: BaseLoop, name: str) -> None:
        """Check that there was an image which could be used.

        Raises:
            DataError: There was none.
        """
        marked = self._unusable.get(name)
        if not marked:
            return
        count = torch.stack([flags.sum(dtype=torch.int64) for flags in marked]).sum()
        dist.all_reduce(count)
        total = len(loop.dataloader.dataset)
        if total and int(count) >= total:
            raise DataError(
                f"None of the {total} images could be used, so that the numbers mean nothing: the log says why for "
                "each (`localvit check CONFIG --images` looks at all of them)."
            )


def loading_transforms(node: object) -> Iterator[LoadImageFromFile]:
    """Those of a data set, whatever wraps it, and of transforms in transforms."""
    if isinstance(node, LoadImageFromFile):
        yield node
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from loading_transforms(item)
    else:
        parts = getattr(node, "__dict__", {})
        for name in ("dataset", "datasets", "pipeline", "transforms"):
            if parts.get(name) is not None:
                yield from loading_transforms(parts[name])
