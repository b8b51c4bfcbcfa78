"""Loading of images for `LoadImageFromFile` in pipelines, which goes on where one is broken, and mixing of images."""

import logging
import os
import random
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmcv.image.io import imread_flags
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmdet.datasets.transforms import CopyPaste, Mosaic
from mmdet.registry import HOOKS, TRANSFORMS
from mmdet.structures.mask import BitmapMasks
from mmengine import dist, fileio
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, Runner
from torch import Tensor

from ..errors import ConfigError, DataError
from .annotations import MAX_PIXELS
from .images import BrokenImageError, PixelRange, decode, pixel_range_of, read_file, read_header

ON_BROKEN = ("skip", "stop")
MAX_BROKEN = 100


@dataclass(frozen=True)
class ImagePolicy:
    """What becomes of images that cannot be used."""

    on_broken: str = "skip"  # one of `ON_BROKEN`
    max_broken: float = MAX_BROKEN  # images after which a process stops
    max_pixels: float = MAX_PIXELS  # of an image that is decoded
    pixel_range: PixelRange | None = None  # as of `decode`
    evaluates: bool = False  # whether it is not in a training


class LoadImageFromFile(MMCVLoadImageFromFile):
    """MMCV's transform, which with a policy survives files that are no images, cut off, huge, or of an unexpected size.

    In training such an image is skipped for another one; in an evaluation a gray one stands for it, in which nothing
    is to be found. Each is named once. Without a policy it does what MMCV's does: `patches` registers it for
    everything that MMDetection loads, also for what is not run by us.
    """

    policy: ImagePolicy | None = None  # set by `BrokenImagesHook`, or by `protect_loading` where there is no runner
    unusable: Tensor | None = None  # where the numbers of unusable images are marked
    _broken: frozenset[str] = frozenset()  # what was named

    def transform(self, results: dict) -> dict | None:
        """Load `results['img_path']`.

        Returns:
            The results with img (H×W×C), img_shape and ori_shape; None for an image of a training to skip.

        Raises:
            DataError: The image is broken, and is to stop the run or is one too many.
        """
        policy = self.policy
        if policy is None:
            return super().transform(results)
        try:
            self._check_map(results, policy)
            image = self._load(results, policy)
        except BrokenImageError as error:
            self._report(results["img_path"], str(error), policy)
            if not policy.evaluates:
                return None
            if self.unusable is not None and "sample_idx" in results:
                self.unusable[results["sample_idx"]] = 1
            height, width = results.get("height") or 32, results.get("width") or 32
            image = np.full((height, width, 3), 114, np.uint8)
        if self.to_float32:
            image = image.astype(np.float32)
        results["img"] = image
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results

    def _check_map(self, results: dict, policy: ImagePolicy) -> None:
        """Check the size of a map of labels, which MMDetection decodes after the image, whatever it holds.

        Raises:
            BrokenImageError: It is too large, or damaged.
            DataError: Likewise in an evaluation, which cannot do without it.
        """
        path = results.get("seg_map_path")
        if not isinstance(path, str) or not os.path.exists(path):
            return
        try:
            read_header(path, policy.max_pixels)
        except BrokenImageError as error:
            if policy.evaluates:
                raise DataError(f"The map {path} {error}: correct or remove it.") from error
            raise BrokenImageError(f"has the map {path}, which {error}") from error

    def _load(self, results: dict, policy: ImagePolicy) -> np.ndarray:
        path = results["img_path"]
        if self.backend_args is None and os.path.exists(path):
            content = read_file(path, policy.max_pixels)
        else:
            try:
                content = fileio.get(path, backend_args=self.backend_args)
            except OSError as error:
                raise BrokenImageError(f"cannot be read ({error.strerror or error})") from error
        size = (results["width"], results["height"]) if {"width", "height"} <= results.keys() else None
        if self.imdecode_backend == "cv2":
            flag = imread_flags.get(self.color_type, cv2.IMREAD_COLOR)
            return decode(content, size, flag, policy.max_pixels, policy.pixel_range)
        read_header(content, policy.max_pixels)
        try:
            return mmcv.imfrombytes(content, flag=self.color_type, backend=self.imdecode_backend)
        except Exception as error:  # each decoder has its own
            raise BrokenImageError(f"cannot be decoded ({type(error).__name__})") from error

    def _report(self, path: str, reason: str, policy: ImagePolicy) -> None:
        """Name an image once in each process."""
        if policy.on_broken == "stop":
            raise DataError(f"The image {path} {reason}: fix or remove it, or skip such images (broken_images=skip).")
        if path in self._broken:
            return
        self._broken |= {path}
        count = len(self._broken)
        if count > policy.max_broken:
            raise DataError(
                f"{count} images cannot be used, the last one, {path}, because it {reason}: look at all with "
                "`localvit check CONFIG --images`, or allow more with max_broken_images."
            )
        what = "counts as one without detections" if policy.evaluates else "is skipped"
        print_log(f"The image {path} {reason}; it {what} ({count} so far here).", "current", logging.WARNING)


@HOOKS.register_module()
class BrokenImagesHook(Hook):
    """Apply `broken_images`, `max_broken_images`, `max_pixels` and `pixel_range` of the config.

    It acts on the loaded datasets, because the settings are no part of a pipeline: inference builds other transforms
    from that.
    """

    priority = "VERY_HIGH"  # before data workers are started, and before anything is done with numbers of no image

    def before_run(self, runner: Runner) -> None:
        """Set what every transform that loads images does.

        Raises:
            ConfigError: `pixel_range` has no effect.
        """
        self._unusable: dict[str, list[Tensor]] = {}
        for name in ("_train_loop", "_val_loop", "_test_loop"):
            loop = getattr(runner, name)
            if not isinstance(loop, BaseLoop):
                continue
            transforms = protect_loading(loop.dataloader.dataset, runner.cfg, evaluates=name != "_train_loop")
            if runner.cfg.get("pixel_range") and not any(one.imdecode_backend == "cv2" for one in transforms):
                raise ConfigError(
                    "pixel_range has no effect on images that are not read by LoadImageFromFile of a detector with the "
                    "backend cv2: leave it out."
                )
            if name == "_train_loop":
                started = vars(loop).get("dataloader_iterator")
                if started is not None and loop.dataloader.num_workers:
                    # MMEngine's loop of iterations has started workers before any hook: anew, with what is set now.
                    loop.dataloader._iterator = None
                    loop.dataloader_iterator = type(started)(loop.dataloader)
                if not any(isinstance(hook, _SwitchedPipelineHook) for hook in runner.hooks):
                    runner.register_hook(_SwitchedPipelineHook())
                continue
            for transform in transforms:
                # In shared memory, where data workers mark them.
                transform.unusable = torch.zeros(len(loop.dataloader.dataset), dtype=torch.uint8).share_memory_()
                self._unusable.setdefault(name, []).append(transform.unusable)

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        """Refuse a validation of which no image could be used.

        Raises:
            DataError: There was none.
        """
        self._refuse_no_image(runner.val_loop, "_val_loop")

    def after_test_epoch(self, runner: Runner, metrics: Any = None) -> None:
        """Refuse a test likewise."""
        self._refuse_no_image(runner.test_loop, "_test_loop")

    def _refuse_no_image(self, loop: BaseLoop, name: str) -> None:
        marked = self._unusable.get(name)
        if not marked:
            return
        together = torch.stack(marked).int()
        dist.all_reduce(together, "max")  # image by image: to have equal shares, processes repeat some
        total = len(loop.dataloader.dataset)
        if total and int(together.sum()) >= total:
            raise DataError(
                f"None of the {total} images could be used, so that the numbers mean nothing: the log says why for "
                "each (`localvit check CONFIG --images` looks at all of them)."
            )


class _SwitchedPipelineHook(Hook):
    """Protect the pipeline that MMDetection's PipelineSwitchHook has just put in the place of a training's."""

    priority = "LOWEST"

    def before_train_epoch(self, runner: Runner) -> None:
        """Set it before the workers of the epoch are started."""
        protect_loading(runner.train_loop.dataloader.dataset, runner.cfg)


def protect_loading(dataset: object, cfg: Mapping[str, Any], evaluates: bool = False) -> list[LoadImageFromFile]:
    """Let a config's settings hold in everything of a dataset that loads images, which is returned."""
    policy = ImagePolicy(
        cfg.get("broken_images") or "skip",
        cfg.get("max_broken_images", MAX_BROKEN),
        cfg.get("max_pixels", MAX_PIXELS),
        pixel_range_of(cfg.get("pixel_range")),
        evaluates,
    )
    transforms = list(loading_transforms(dataset))
    for transform in transforms:
        transform.policy = policy
    return transforms


def loading_transforms(node: object) -> Iterator[LoadImageFromFile]:
    """Yield those of a dataset, whatever wraps it, and of transforms in transforms."""
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


_Place = tuple[int, int, int, int]


@TRANSFORMS.register_module()
class MaskedMosaic(Mosaic):
    """MMDetection's mosaic of four images, which would leave their masks behind.

    Its cached one has masks, but draws from what its process has loaded before: no training could be resumed exactly.
    """

    def get_indexes(self, dataset: Sized) -> list[int]:
        """Return three images; MMDetection's own may draw one behind the last."""
        return [random.randrange(len(dataset)) for _ in range(3)]

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the mosaic of an image and its `mix_results`."""
        parts = [results, *results["mix_results"]]
        labels = np.concatenate([part["gt_bboxes_labels"] for part in parts])
        ends = np.cumsum([len(part["gt_bboxes_labels"]) for part in parts])
        masks = [part.pop("gt_masks", None) for part in parts]
        for part, numbers in zip(parts, np.split(np.arange(len(labels)), ends[:-1]), strict=True):
            part["gt_bboxes_labels"] = numbers  # which tell afterwards what is left
        self._places: list[tuple[_Place, _Place, tuple[int, int]]] = []
        mosaic = super().transform(results)
        kept = mosaic["gt_bboxes_labels"]
        mosaic["gt_bboxes_labels"] = labels[kept]
        if not self._places:  # by its `prob` the image stays as it is
            return mosaic if masks[0] is None else {**mosaic, "gt_masks": masks[0]}
        if masks[0] is not None:
            height, width = mosaic["img_shape"]
            whole = np.zeros((len(kept), height, width), np.uint8)
            for mask, start, end, (paste, crop, size) in zip(masks, [0, *ends[:-1]], ends, self._places, strict=True):
                rows = np.flatnonzero((kept >= start) & (kept < end))
                part = mask[kept[rows] - start].resize(size[::-1]).to_ndarray()  # objects, height, width of the part
                (x1, y1, x2, y2), (left, top, right, bottom) = paste, crop
                whole[rows, y1:y2, x1:x2] = part[:, top:bottom, left:right]
            mosaic["gt_masks"] = BitmapMasks(whole, height, width)
        return mosaic

    def _mosaic_combine(self, loc: str, center_position_xy: Any, img_shape_wh: Any) -> tuple[_Place, _Place]:
        """Note where a part goes."""
        paste, crop = super()._mosaic_combine(loc, center_position_xy, img_shape_wh)
        self._places.append((paste, crop, img_shape_wh))
        return paste, crop


@TRANSFORMS.register_module()
class FittingCopyPaste(CopyPaste):
    """MMDetection's pasting of objects, of masks of any kind, into an image that keeps its type."""

    def get_indexes(self, dataset: Sized) -> int:
        """Return an image; MMDetection's own may draw one behind the last."""
        return random.randrange(len(dataset))

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Paste objects of the one image of `mix_results`."""
        for part in (results, *results["mix_results"]):
            masks = part["gt_masks"]
            part["gt_masks"] = BitmapMasks(masks.to_ndarray(), masks.height, masks.width)
        kind = results["img"].dtype
        results = super().transform(results)
        results["img"] = results["img"].astype(kind)
        return results
