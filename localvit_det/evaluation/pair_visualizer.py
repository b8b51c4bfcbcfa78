"""What `--show-dir` and `--show` draw: MMDetection's visualizer, with our pairs of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.registry import VISUALIZERS
from mmdet.visualization import DetLocalVisualizer

from ..drawing import Objects, draw_pair


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
        """Draws `image` (H×W×3, RGB) with the objects of a sample; arguments are MMDetection's."""
        both = draw_gt and draw_pred and data_sample is not None
        if not both or not {"gt_instances", "pred_instances"} <= set(data_sample.keys()) or _has_stuff(data_sample):
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


def _has_stuff(sample: Any) -> bool:
    return bool({"gt_panoptic_seg", "gt_sem_seg", "pred_panoptic_seg", "pred_sem_seg"} & set(sample.keys()))


def _objects(instances: Any, classes: Sequence[str] | None) -> Objects:
    """What MMDetection keeps of the objects of one side."""
    labels = np.asarray(instances.labels)
    texts = [classes[label] if classes else f"class {label}" for label in labels]
    if "scores" in instances:
        texts = [f"{text} {score:.2f}" for text, score in zip(texts, instances.scores.tolist(), strict=True)]
    boxes = instances.bboxes
    masks: Any = instances.masks if "masks" in instances else None  # of MMDetection, or a tensor
    if hasattr(masks, "to_ndarray"):
        masks = masks.to_ndarray()
    return Objects(
        boxes=np.asarray(getattr(boxes, "tensor", boxes), np.float32).reshape(-1, 4),
        labels=labels,
        texts=texts,
        masks=None if masks is None else np.asarray(masks).astype(bool),
    )
