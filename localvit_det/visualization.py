"""Objects drawn into images, and what `--show` and `--show-dir` of a test draw; importing this module registers it.

A class has one color everywhere. MMDetection's `DetVisualizationHook` writes one file for all images of one name, and a
drawing that fails ends an evaluation: `UniqueDrawings` does neither.
"""

from __future__ import annotations

import colorsys
import logging
import os
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.registry import HOOKS, VISUALIZERS
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.fileio import get
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from .config_names import type_name
from .datasets.images import decode, pixel_range_of
from .errors import ConfigError, first_line
from .files import OutputFolder, drawn_suffix

__all__ = [
    *("DrawingHook", "Objects", "PairVisualizer", "class_color", "draw_objects", "draw_pair", "draw_predictions"),
    "draw_readable",
]

_STUFF = {"gt_panoptic_seg", "gt_sem_seg", "pred_panoptic_seg", "pred_sem_seg"}  # in samples
_GOLDEN = 0.6180339887  # steps of the hue that keep any number of classes apart
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_MASK_OPACITY = 0.45
_READABLE = 480  # pixels on the longer side, below which labels would hide small objects or be too small to read
_GAP = 6
_PAPER, _INK = (255, 255, 255), (40, 40, 40)
_Place = tuple[int, int, int, int]  # x1, y1, x2, y2


class Objects(NamedTuple):
    """What is drawn into an image.

    Attributes:
        boxes: (N, 4), x1, y1, x2, y2 in pixels.
        labels: (N,), which decide the colors.
        texts: What is written at each box.
        masks: (N, H, W), bool, or None.
    """

    boxes: np.ndarray
    labels: np.ndarray
    texts: Sequence[str]
    masks: np.ndarray | None = None


def class_color(label: int) -> tuple[int, int, int]:
    """Return the color of a class, BGR."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + label * _GOLDEN) % 1, 0.75, 0.95 if label % 2 else 0.8)
    return round(255 * blue), round(255 * green), round(255 * red)


def draw_objects(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, texts: Sequence[str], masks: np.ndarray | None = None
) -> np.ndarray:
    """Draw into `image` (H×W×3, uint8, BGR) and return it, the first objects on top; the rest is as of `Objects`.

    Texts give way to those of earlier objects; where no place is left for one, the color of its box has to do.
    """
    order = range(len(boxes))[::-1]
    colors = [class_color(int(label)) for label in labels]
    if masks is not None:
        for index in order:
            _blend(image, masks[index], colors[index])
    side = max(image.shape[:2])
    corners = np.rint(boxes).astype(int)
    for index in order:
        left, top, right, bottom = corners[index].tolist()
        cv2.rectangle(image, (left, top), (right, bottom), colors[index], max(1, round(side / 320)), cv2.LINE_AA)
    taken: list[_Place] = []
    for index, text in enumerate(texts):  # texts last: no box runs through them
        _write_label(image, text, corners[index].tolist(), colors[index], side, taken)
    return image


def draw_readable(image: np.ndarray, objects: Objects, largest: int | None = None) -> np.ndarray:
    """Draw objects into a copy of an image (H×W×3, uint8, BGR) whose size makes the texts legible.

    Args:
        largest: Images with more pixels on their longer side are drawn smaller.
    """
    side = max(image.shape[:2])
    factor = max(1, -(-_READABLE // side))
    if largest is not None and side > largest:
        factor = largest / side
    if factor == 1:
        return draw_objects(image.copy(), *objects)
    kind = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    copy = cv2.resize(image, None, fx=factor, fy=factor, interpolation=kind)
    masks = objects.masks
    if masks is not None:  # linear, so that outlines stay smooth
        resized = [cv2.resize(mask.astype(np.float32), copy.shape[1::-1]) > 0.5 for mask in masks]
        masks = np.array(resized, bool).reshape(-1, *copy.shape[:2])
    return draw_objects(copy, objects.boxes * factor, objects.labels, objects.texts, masks)


def draw_pair(
    image: np.ndarray,
    left: Objects,
    right: Objects,
    captions: tuple[str, str] = ("ground truth", "predictions"),
    largest: int | None = None,
) -> np.ndarray:
    """Draw two sets of objects into two copies as of `draw_readable`, side by side under their captions."""
    pictures = (draw_readable(image, objects, largest) for objects in (left, right))
    first, second = (_captioned(picture, text) for picture, text in zip(pictures, captions, strict=True))
    return np.concatenate((first, np.full((len(first), _GAP, 3), _PAPER, np.uint8), second), axis=1)


def _captioned(image: np.ndarray, text: str) -> np.ndarray:
    """Return an image under a strip with a text in its middle, as large as labels in the image."""
    scale, thickness = _pen(max(image.shape[:2]))
    text = _printable(text)
    capital = cv2.getTextSize("X", _FONT, scale, thickness)[0][1]
    strip = np.full((round(2.2 * capital), image.shape[1], 3), _PAPER, np.uint8)
    (width, height), _ = cv2.getTextSize(text, _FONT, scale, thickness)
    corner = max(0, (strip.shape[1] - width) // 2), (strip.shape[0] + height) // 2
    cv2.putText(strip, text, corner, _FONT, scale, _INK, thickness, cv2.LINE_AA)
    return np.concatenate((strip, image))


def _blend(image: np.ndarray, mask: np.ndarray, color: tuple[int, int, int]) -> None:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # objects are smaller than images
    inside, part = mask[window], image[window]
    mixed = part[inside] * (1 - _MASK_OPACITY) + np.array(color) * _MASK_OPACITY
    part[inside] = mixed.astype(np.uint8)
    outline, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    line = max(1, round(max(image.shape[:2]) / 500))
    cv2.drawContours(image, outline, -1, (255, 255, 255), line, cv2.LINE_AA, offset=(int(columns[0]), int(rows[0])))


def _pen(side: int) -> tuple[float, int]:
    """Return scale and thickness of letters in an image whose longer side has so many pixels."""
    return 0.35 + side / 2400, max(1, round(side / 900))


def _printable(text: str) -> str:
    return text.encode("ascii", "replace").decode()  # OpenCV has no other letters


def _write_label(
    image: np.ndarray, text: str, box: Sequence[int], color: tuple[int, int, int], side: int, taken: list[_Place]
) -> None:
    """Write at a box (x1, y1, x2, y2), inside the image in any case, unless other texts have taken every place."""
    scale, thickness = _pen(side)
    text = _printable(text)
    (width, height), baseline = cv2.getTextSize(text, _FONT, scale, thickness)
    pad = baseline // 2 + 1
    width, height = width + 2 * pad, height + 2 * pad
    place = _free_place(image.shape[:2], (width, height), box, taken)
    if place is None:
        return
    taken.append(place)
    left, _, _, bottom = place
    cv2.rectangle(image, place[:2], place[2:], color, cv2.FILLED)
    dark = 0.114 * color[0] + 0.587 * color[1] + 0.299 * color[2] > 140
    ink = (0, 0, 0) if dark else (255, 255, 255)
    cv2.putText(image, text, (left + pad, bottom - pad), _FONT, scale, ink, thickness, cv2.LINE_AA)


def _free_place(
    image: tuple[int, ...], label: tuple[int, int], box: Sequence[int], taken: Sequence[_Place]
) -> _Place | None:
    """Return where a label (width, height) covers no other, x1, y1, x2, y2: above its box, below it, or inside."""
    (width, height), (x1, y1, x2, y2) = label, box
    for top in (y1 - height, y2, y1, y2 - height):
        for left in (x1, x2 - width):
            x = min(max(left, 0), max(0, image[1] - width))
            y = min(max(top, 0), max(0, image[0] - height))
            if not any(
                x < right and other < x + width and y < bottom and above < y + height
                for other, above, right, bottom in taken
            ):
                return x, y, x + width, y + height
    return None


# ---- in a test


def draw_predictions(cfg: Config, show: bool, folder: str | None, wait_time: float) -> None:
    """Make a test draw its predictions.

    Args:
        show: In windows, each for `wait_time` seconds.
        folder: Into files of this folder.

    Raises:
        ConfigError: The config has no hook that draws.
    """
    hook = (cfg.get("default_hooks") or {}).get("visualization")
    if hook is None:
        raise ConfigError("--show and --show-dir need default_hooks.visualization in the config, which draws.")
    hook["draw"] = True
    if type_name(cfg.get("visualizer")) == "DetLocalVisualizer":
        cfg.visualizer["type"] = "PairVisualizer"
    if show:
        hook.update(show=True, wait_time=wait_time)
    if not folder:
        return
    kind = type_name(hook)
    if kind == "SegVisualizationHook":
        _register_for_mmseg()
        hook["type"] = "SegDrawingHook"
    elif kind == "DetVisualizationHook":
        hook["type"] = "DrawingHook"
    elif cfg.get("default_scope") == "mmseg":  # a hook of the user's own
        cfg.visualizer["save_dir"] = folder
        hook["interval"] = 1  # by default only one batch of fifty is drawn
        return
    hook["test_out_dir"] = folder


class UniqueDrawings(Hook):
    """Added to a hook that draws: files get their names before the first is written, and none is an image that is read.

    A file is called as its image; with the folders where several are called so.

    Attributes:
        settings: Names of the hook's attributes that the visualizer takes as arguments.
    """

    settings: ClassVar[dict[str, str]] = {"show": "show", "wait_time": "wait_time"}

    def before_test(self, runner: Runner) -> None:
        """Plan the names of all files; raise OutputError where one would be written over an image that is read."""
        if not self.draw or self.test_out_dir is None:
            return
        self._pixel_range = pixel_range_of(runner.cfg.get("pixel_range"))
        dataset = runner.test_dataloader.dataset
        # A dataset of others may not know its paths: files then get their names one by one.
        known = range(len(dataset) if hasattr(dataset, "get_data_info") else 0)
        found = (dataset.get_data_info(index).get("img_path") for index in known)
        paths = list(dict.fromkeys(map(os.path.abspath, filter(None, found))))
        common = os.path.commonpath(map(os.path.dirname, paths)) if paths else ""
        names = list(map(os.path.basename, paths))
        counts = Counter(map(str.casefold, names))
        names = [
            name if counts[name.casefold()] == 1 else os.path.relpath(path, common)
            for name, path in zip(names, paths, strict=True)
        ]
        self._files = OutputFolder(self.test_out_dir, paths)
        self._names = dict(zip(paths, self._files.plan([(one, drawn_suffix(one)) for one in names]), strict=True))

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[Any]) -> None:
        """Draw the samples of a batch; arguments are MMDetection's."""
        if not self.draw or self.test_out_dir is None:
            super().after_test_iter(runner, batch_idx, data_batch, outputs)
            return
        for sample in outputs:
            self._test_index += 1
            try:
                self._draw(sample)
            # The numbers of a long evaluation are worth more than a drawing.
            except Exception as error:
                print_log(f"{sample.img_path} is not drawn ({first_line(error)}).", "current", logging.WARNING)

    def _draw(self, sample: Any) -> None:
        path = os.path.abspath(sample.img_path)
        if path not in self._names:
            self._files.keep(path)
            self._names[path] = self._files.name(os.path.basename(path), drawn_suffix(path))
        self._visualizer.add_datasample(
            os.path.basename(path) if self.show else "test_img",
            decode(get(path, backend_args=self.backend_args), pixel_range=self._pixel_range)[..., ::-1],
            data_sample=sample,
            out_file=str(self._files.path(self._names[path])),
            step=self._test_index,
            **{argument: getattr(self, attribute) for argument, attribute in self.settings.items()},
        )


@HOOKS.register_module()
class DrawingHook(UniqueDrawings, DetVisualizationHook):
    """MMDetection's hook that draws, with `UniqueDrawings`."""

    settings: ClassVar[dict[str, str]] = {**UniqueDrawings.settings, "pred_score_thr": "score_thr"}


@cache
def _register_for_mmseg() -> None:
    """Register MMSegmentation's hook that draws, with `UniqueDrawings`; it is imported only where it is run."""
    from mmseg.engine.hooks import SegVisualizationHook
    from mmseg.registry import HOOKS as HOOKS_OF_MMSEG

    class SegDrawingHook(UniqueDrawings, SegVisualizationHook):
        def __init__(self, test_out_dir: str | None = None, **settings: Any) -> None:
            super().__init__(**settings)
            self.test_out_dir = test_out_dir
            self._test_index = 0

    HOOKS_OF_MMSEG.register_module(module=SegDrawingHook)


@VISUALIZERS.register_module()
class PairVisualizer(DetLocalVisualizer):
    """MMDetection's visualizer, which draws the objects of both sides in the colors of their classes.

    What is panoptic or semantic is drawn as MMDetection does.
    """

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: Any = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        pred_score_thr: float = 0.3,
        step: int = 0,
    ) -> None:
        """Draw `image` (H×W×3, RGB) with the objects of a sample; arguments are MMDetection's."""
        keys = set(data_sample.keys()) if draw_gt and draw_pred and data_sample is not None else set()
        if not {"gt_instances", "pred_instances"} <= keys or _STUFF & keys:
            super().add_datasample(
                name, image, data_sample, draw_gt, draw_pred, show, wait_time, out_file, pred_score_thr, step
            )
            return
        sample = data_sample.cpu()
        found = sample.pred_instances
        classes = self.dataset_meta.get("classes")
        left, right = (_objects(one, classes) for one in (sample.gt_instances, found[found.scores > pred_score_thr]))
        drawn = draw_pair(image[..., ::-1].clip(0, 255).astype(np.uint8), left, right)
        # The rest of MMDetection's: into a window, a file, or what the visualizer writes to.
        super().add_datasample(
            name, drawn[..., ::-1], None, show=show, wait_time=wait_time, out_file=out_file, step=step
        )


def _objects(instances: Any, classes: Sequence[str] | None) -> Objects:
    """Return what MMDetection keeps of the objects of one side."""
    labels = np.asarray(instances.labels)
    texts = [classes[label] if classes else f"class {label}" for label in labels]
    if "scores" in instances:
        texts = [f"{text} {score:.2f}" for text, score in zip(texts, instances.scores.tolist(), strict=True)]
    boxes = np.asarray(getattr(instances.bboxes, "tensor", instances.bboxes), np.float32).reshape(-1, 4)
    masks: Any = instances.masks if "masks" in instances else None  # of MMDetection, or a tensor
    if hasattr(masks, "to_ndarray"):
        masks = masks.to_ndarray()
    return Objects(boxes, labels, texts, None if masks is None else np.asarray(masks).astype(bool))
