"""Tells the loading of images what to do with broken ones, as the top level of the config says."""

from collections.abc import Iterator

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner

from ..datasets.annotations import MAX_PIXELS
from ..datasets.load_image import MAX_BROKEN, LoadImageFromFile


@HOOKS.register_module()
class BrokenImagesHook(Hook):
    """Applies `broken_images`, `max_broken_images` and `max_pixels` of the config; `load_config` adds it.

    It acts on the loaded data sets, because the settings are no part of a pipeline: inference builds other transforms
    from that.
    """

    priority = "VERY_HIGH"  # before data workers are started

    def before_run(self, runner: Runner) -> None:
        """Sets what every transform that loads images does."""
        for name in ("_train_loop", "_val_loop", "_test_loop"):
            loop = getattr(runner, name)
            if not isinstance(loop, BaseLoop):
                continue
            for transform in loading_transforms(loop.dataloader.dataset):
                transform.on_broken = runner.cfg.get("broken_images") or "skip"
                transform.max_broken = runner.cfg.get("max_broken_images", MAX_BROKEN)
                transform.max_pixels = runner.cfg.get("max_pixels", MAX_PIXELS)
                transform.evaluates = name != "_train_loop"


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
