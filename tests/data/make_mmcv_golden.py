"""Writes mmcv_ops_golden.npz: results of the operators of a compiled mmcv 2.1.0, on the CPU.

Run it from any folder with an interpreter that has a compiled mmcv; `tests/ops/test_mmcv_ops.py` then compares
`results` under whichever mmcv is installed with the file.
"""

import importlib.util
import itertools
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FILE = Path(__file__).with_name("mmcv_ops_golden.npz")
SCALE = 0.25


def inputs() -> dict[str, np.ndarray]:
    """Seeded boxes, feature maps and RoIs, with empty boxes and every kind of border case."""
    rng = np.random.default_rng(2024)
    corners = rng.uniform(0, 80, (150, 2))
    boxes = np.concatenate((corners, corners + rng.uniform(2, 40, (150, 2))), axis=1)
    boxes[10:14] = boxes[9]  # duplicates
    boxes[20:23, 2:] = boxes[20:23, :2]  # no area
    boxes[30:40] = np.round(boxes[30:40])
    # No two are equal, because mmcv's NMS leaves the order of equal ones to an unstable sort.
    scores = rng.permutation(150) / 150
    rois = [
        (0, 8.3, 5.1, 60.2, 47.9),
        (1, 0, 0, 95.9, 79.9),  # the whole image
        (1, -12.5, -7.0, 30.0, 20.0),  # over the upper left border
        (0, 70.0, 60.0, 120.0, 110.0),  # over the lower right border
        (0, 200.0, 200.0, 260.0, 240.0),  # outside
        (1, 33.3, 41.2, 33.3, 41.2),  # a point
        (0, 10.0, 20.0, 50.0, 20.0),  # a line
        (1, 40.1, 30.2, 41.3, 31.1),  # smaller than a cell
        (0, 90.0, 3.0, 96.0, 80.0),  # touches the right border
    ]
    return {
        "boxes": boxes.astype(np.float32),
        "scores": scores.astype(np.float32),
        "tied_scores": np.round(scores, 1).astype(np.float32),  # for Soft-NMS, which does fix their order
        "labels": rng.integers(0, 4, 150),
        "features": rng.standard_normal((2, 3, 20, 24)).astype(np.float32),
        "rois": np.array(rois, dtype=np.float32),
    }


def results(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Runs every case through `mmcv.ops`, compiled or not."""
    from mmcv.ops import batched_nms, nms, soft_nms

    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    boxes, scores, labels = tensors["boxes"], tensors["scores"], tensors["labels"]
    found: dict[str, Tensor] = {}
    for threshold, offset in itertools.product((0.3, 0.5, 0.7), (0, 1)):
        found[f"nms_{threshold}_{offset}"] = nms(boxes, scores, threshold, offset)[1]
    found["nms_filtered"] = nms(boxes, scores, 0.5, score_threshold=0.4, max_num=11)[1]
    for method, offset in itertools.product(("naive", "linear", "gaussian"), (0, 1)):
        dets, kept = soft_nms(boxes, tensors["tied_scores"], 0.3, 0.5, 0.05, method, offset)
        found[f"soft_nms_{method}_{offset}_dets"], found[f"soft_nms_{method}_{offset}"] = dets, kept
    for split, agnostic, kind in itertools.product((10000, 50), (False, True), ("nms", "soft_nms")):
        settings = {"type": kind, "iou_threshold": 0.5, "split_thr": split, "class_agnostic": agnostic}
        dets, kept = batched_nms(boxes, scores, labels, settings)
        case = f"batched_{kind}_split{split}_agnostic{agnostic}"
        found[f"{case}_dets"], found[case] = dets, kept
    for aligned, ratio in itertools.product((True, False), (0, 2)):
        output, gradient = roi_align_with_gradient(tensors["features"], tensors["rois"], ratio, aligned)
        case = f"roi_align_aligned{aligned}_ratio{ratio}"
        found[f"{case}_output"], found[f"{case}_gradient"] = output, gradient
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


def roi_align_with_gradient(features: Tensor, rois: Tensor, ratio: int, aligned: bool) -> tuple[Tensor, Tensor]:
    """RoIAlign to 5×3 cells, and the derivative of a fixed weighted sum of them by the features."""
    from mmcv.ops import roi_align

    leaf = features.clone().requires_grad_()
    output = roi_align(leaf, rois, (5, 3), SCALE, ratio, "avg", aligned)
    weights = torch.arange(output.numel(), device=output.device).sin().view(output.shape)
    (output * weights).sum().backward()
    return output.detach(), leaf.grad


if __name__ == "__main__":
    spec = importlib.util.find_spec("mmcv._ext")
    if spec is None:
        sys.exit("The golden data needs a compiled mmcv 2.1.0, and this interpreter has none.")
    arrays = inputs()
    golden = {f"input_{name}": array for name, array in arrays.items()}
    golden |= {f"result_{name}": array for name, array in results(arrays).items()}
    np.savez_compressed(FILE, **golden)
