"""What `--show` and `--show-dir` draw: pairs of pictures, and a file for each image, whatever its name.

`DetVisualizationHook` writes one file for all images of one name, and a drawing that fails ends an evaluation.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.registry import HOOKS, VISUALIZERS
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.fileio import get
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from ..config_names import type_name
from ..datasets.images import decode, pixel_range_of
from ..errors import ConfigError, first_line
from ..files import OutputFolder, drawn_suffix
from .draw import Objects, draw_pair

_STUFF = {"gt_panoptic_seg", "gt_sem_seg", "pred_panoptic_seg", "pred_sem_seg"}  # in samples


def draw_predictions(cfg: Config, show: bool, folder: str | None, wait_time: float) -> None:
    """Make a test draw its predictions.

    Args:
        cfg: Of MMDetection or MMSegmentation.
        show: In windows, each for `wait_time` seconds.
        folder: Into files of this folder.
        wait_time: In seconds.

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
        from . import mmseg_hook  # noqa: F401 - needs MMSegmentation

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
        """Plan the names of all files.

        Raises:
            OutputError: One would be written over an image that is read.
        """
        if not self.draw or self.test_out_dir is None:
            return
        self._pixel_range = pixel_range_of(runner.cfg.get("pixel_range"))
        dataset = runner.test_dataloader.dataset
        # A dataset of others may not know its paths: files then get their names one by one.
        known = range(len(dataset) if hasattr(dataset, "get_data_info") else 0)
        paths = [dataset.get_data_info(index).get("img_path") for index in known]
        paths = list(dict.fromkeys(map(os.path.abspath, filter(None, paths))))
        counts = Counter(os.path.basename(path).casefold() for path in paths)
        common = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
        names = [
            os.path.basename(path) if counts[os.path.basename(path).casefold()] == 1 else os.path.relpath(path, common)
            for path in paths
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
