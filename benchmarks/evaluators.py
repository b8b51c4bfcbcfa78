"""Are faster-coco-eval's numbers those of pycocotools? `python -m benchmarks.evaluators --cases 1000`.

Each case is a small set of random images, objects and predictions, rich in what evaluators may treat differently: equal
scores, overlaps of exactly a half, crowds, areas on the borders of sizes, images and classes without objects or
predictions, and more predictions than count. Precision, recall and all averages are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from pycocotools import mask as coco_masks
from pycocotools.cocoeval import COCOeval

from localvit_det.evaluation.coco import fast_evaluator

SIDE = 128  # pixels of an image
LIMITS = ([100, 300, 1000], [1, 10, 100], [1, 3, 10])


def draw_case(rng: np.random.Generator) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return ground truth in COCO's format, and predictions with boxes and masks."""
    images, classes = int(rng.integers(1, 7)), int(rng.integers(1, 5))
    listed = [{"id": int(i), "width": SIDE, "height": SIDE} for i in rng.permutation(100)[:images]]
    annotations: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image in listed:
        objects = _boxes(int(rng.integers(0, 8)), rng)
        for box in objects:
            crowd = int(rng.random() < 0.15)
            area = rng.choice([box[2] * box[3], 32**2, 96**2, 32**2 - 0.5])
            own = {"id": len(annotations) + 1, "area": float(area), "iscrowd": crowd, "ignore": int(rng.random() < 0.1)}
            mask = _mask(box, rng)
            polygon = [[float(v) for v in _corners(box)]] if not crowd and rng.random() < 0.5 else mask
            annotations.append({**own, **_placed(image, classes, box, rng), "segmentation": polygon})
        near = objects[rng.integers(0, len(objects), int(rng.integers(0, 12)))] if len(objects) else _boxes(0, rng)
        near = near + rng.integers(-1, 2, near.shape) * rng.integers(1, 9, near.shape)
        near[:, 2:] = near[:, 2:].clip(1)
        many = 130 if rng.random() < 0.05 else int(rng.integers(0, 10))
        for box in np.concatenate([near, _boxes(many, rng)]):
            box[:2] = box[:2].clip(0, SIDE - 2)
            score = float(np.round(rng.random(), int(rng.integers(1, 4))))
            found.append({**_placed(image, classes, box, rng), "score": score, "segmentation": _mask(box, rng)})
    names = [{"id": number, "name": str(number)} for number in range(1, classes + 1)]
    return {"images": listed, "categories": names, "annotations": annotations}, found


def _boxes(count: int, rng: np.random.Generator) -> np.ndarray:
    corners = rng.integers(0, SIDE - 8, (count, 2))
    sizes = np.minimum(2 ** rng.integers(1, 8, (count, 2)), SIDE - corners)  # of equal sizes: overlaps of a half
    return np.concatenate([corners, sizes], 1)


def _placed(image: dict, classes: int, box: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    return {
        "image_id": image["id"],
        "category_id": int(rng.integers(1, classes + 1)),
        "bbox": [float(v) for v in box],
    }


def _corners(box: np.ndarray) -> tuple[float, ...]:
    x, y, w, h = box
    return x, y, x + w, y, x + w, y + h, x, y + h


def _mask(box: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    x, y, w, h = map(int, box)
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[y : y + h, x : x + w] = rng.random() < 0.7 or rng.random((1, w))[:, : SIDE - x] < 0.5
    return coco_masks.encode(mask)


def numbers_of(evaluator: type, case: tuple, kind: str, limits: Sequence[int], classes: bool) -> dict[str, np.ndarray]:
    """Return what an evaluator computes from a case.

    Args:
        kind: 'bbox' or 'segm'.
        limits: Numbers of predictions an image that count.
        classes: Whether classes count.
    """
    content, found = copy.deepcopy(case)
    truth = COCO()
    left_out = "bbox" if kind == "segm" else "segmentation"
    with contextlib.redirect_stdout(io.StringIO()):
        truth.dataset = content
        truth.createIndex()
        truth.img_ann_map, truth.cat_img_map = truth.imgToAnns, truth.catToImgs
        listed = truth.loadRes([{key: value for key, value in one.items() if key != left_out} for one in found])
        one = evaluator(truth, listed, kind)
        one.params.maxDets, one.params.useCats = list(limits), int(classes)
        one.evaluate()
        one.accumulate()
        one.summarize()
    return {"averages": np.array(one.stats), **{key: one.eval[key] for key in ("precision", "recall", "scores")}}


def compare(cases: int, seed: int = 0) -> tuple[int, float]:
    """Return how many numbers were compared, and their largest difference.

    Raises:
        ValueError: The two have different shapes.
    """
    rng = np.random.default_rng(seed)
    count, worst = 0, 0.0
    for _ in range(cases):
        case = draw_case(rng)
        while not case[1]:  # pycocotools has no words for it; our metric does not ask it
            case = draw_case(rng)
        limits, classes = LIMITS[rng.integers(len(LIMITS))], bool(rng.random() < 0.8)
        for kind in ("bbox", "segm"):
            theirs, ours = (numbers_of(one, case, kind, limits, classes) for one in (COCOeval, fast_evaluator()))
            for key, expected in theirs.items():
                if expected.shape != ours[key].shape:
                    raise ValueError(f"{key} of {kind}: {expected.shape} and {ours[key].shape}")
                count += expected.size
                worst = max(worst, float(np.abs(expected - ours[key]).max(initial=0)))
    return count, worst


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, and print the largest difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    count, worst = compare(args.cases, args.seed)
    print(f"{args.cases} cases of boxes and of masks, {count:,} numbers: they differ by at most {worst:.2g}")


if __name__ == "__main__":
    main()
