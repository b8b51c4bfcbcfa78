"""What evaluating at COCO's size takes: `python -m benchmarks.evaluation`, with `--classes 1203` as LVIS has it.

Truth and predictions are made from random numbers, each prediction with its mask. Every metric runs in a fresh process;
CPU seconds and the peak of memory are those of `evaluate()`, which begins where the last image has been predicted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

from .measure import in_fresh_process, resident
from .results import markdown_table

HEIGHT, WIDTH, CORNERS = 480, 640, 24
METRICS: dict[str, dict] = {
    "MMDetection": {"type": "CocoMetric"},
    "ours": {"type": "FastCocoMetric"},
    "ours with pycocotools": {"type": "ExactCocoMetric", "fast": False},
}


def write_truth(path: Path, images: int, classes: int, objects: int, rng: np.random.Generator) -> list[dict]:
    """Write a file of objects with polygons, a hundredth of them crowds; return its annotations."""
    boxes = _boxes(images * objects, rng)
    annotations = [
        {
            "id": index + 1,
            "image_id": 1 + index // objects,
            "category_id": int(rng.integers(1, classes + 1)),
            "bbox": box.tolist(),
            "area": round(float(box[2] * box[3]) * 0.7, 2),
            "segmentation": [polygon.tolist()],
            "iscrowd": 0,
        }
        for index, (box, polygon) in enumerate(zip(boxes, _polygons(boxes, rng), strict=True))
    ]
    for one in annotations[::100]:
        encoded = coco_masks.merge(coco_masks.frPyObjects(one["segmentation"], HEIGHT, WIDTH))
        one |= {"iscrowd": 1, "segmentation": {**encoded, "counts": encoded["counts"].decode()}}
    names = [{"id": number, "name": f"class {number}"} for number in range(1, classes + 1)]
    listed = [{"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in range(1, images + 1)]
    path.write_text(json.dumps({"images": listed, "categories": names, "annotations": annotations}), encoding="utf-8")
    return annotations


def predictions(
    annotations: Sequence[dict], images: int, classes: int, detections: int, rng: np.random.Generator
) -> Iterator[tuple[dict, dict]]:
    """Yield for each image what `CocoMetric.process` keeps: objects that are moved, renamed or made up."""
    by_image: dict[int, list[dict]] = {number: [] for number in range(1, images + 1)}
    for one in annotations:
        by_image[one["image_id"]].append(one)
    for number, objects in by_image.items():
        boxes = _boxes(detections, rng)
        labels = rng.integers(0, classes, detections)
        scores = rng.random(detections).astype(np.float32).round(3)  # with ties
        found = objects[:detections]
        if found:
            near = np.array([one["bbox"] for one in found])
            boxes[: len(found)] = near * rng.normal(1, 0.05, near.shape)
            right = rng.random(len(found)) < 0.8
            labels[: len(found)] = np.where(right, [one["category_id"] - 1 for one in found], labels[: len(found)])
            scores[: len(found)] **= 0.3
        masks = [coco_masks.frPyObjects([polygon.tolist()], HEIGHT, WIDTH)[0] for polygon in _polygons(boxes, rng)]
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1).astype(np.float32)
        kept: dict[str, Any] = {"img_id": number, "bboxes": corners, "scores": scores, "labels": labels, "masks": masks}
        yield {"width": WIDTH, "height": HEIGHT, "img_id": number}, kept


def _boxes(count: int, rng: np.random.Generator) -> np.ndarray:
    sizes = np.exp(rng.uniform(np.log(8), np.log(240), (count, 2)))
    corners = rng.random((count, 2)) * (np.array([WIDTH, HEIGHT]) - sizes)
    return np.concatenate([corners, sizes], 1).round(2)  # (count, 4): x, y, width, height


def _polygons(boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a jagged ellipse in each box: (N, 2 · corners), x and y in turns."""
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    radii = rng.uniform(0.7, 1, (len(boxes), CORNERS, 1)) / 2
    points = radii * np.stack([np.cos(angles), np.sin(angles)], 1) + 0.5  # (N, corners, 2), in parts of the box
    return (boxes[:, None, :2] + points * boxes[:, None, 2:]).reshape(len(boxes), -1).round(2)


def evaluate(name: str, args: argparse.Namespace) -> tuple[float, float, float, dict]:
    """Evaluate with a metric; return CPU seconds, the most MiB before and in the end, and the numbers."""
    from mmdet.registry import METRICS as REGISTRY

    import localvit_det  # noqa: F401  # registers our metrics

    rng = np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "instances_val2017.json")
        annotations = write_truth(path, args.images, args.classes, args.objects, rng)
        metric = REGISTRY.build({**METRICS[name], "ann_file": str(path), "metric": ["bbox", "segm"]})
        metric.dataset_meta = {"classes": [f"class {number}" for number in range(1, args.classes + 1)]}
        metric.results.extend(predictions(annotations, args.images, args.classes, args.detections, rng))
        del annotations
        before, start = resident(), time.process_time()
        numbers = metric.evaluate(args.images)
        return time.process_time() - start, before / 2**20, resident() / 2**20, numbers


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate with each metric in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--detections", type=int, default=100, help="an image (default: %(default)s)")
    parser.add_argument("--objects", type=int, default=7, help="an image (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--metrics", nargs="+", choices=METRICS, default=list(METRICS))
    args = parser.parse_args(argv)
    rows, known = [], None
    for name in args.metrics:
        found = in_fresh_process(evaluate, name, args, OMP_NUM_THREADS="1")
        if found is None:
            print(f"{name}: the process ended without a result (out of memory?)", file=sys.stderr)
            continue
        seconds, before, peak, numbers = found
        known = known or numbers
        rows.append((name, f"{seconds:.1f}", f"{before:,.0f}", f"{peak:,.0f}", "yes" if numbers == known else "no"))
    print(markdown_table(("metric", "CPU seconds", "MiB before", "MiB at most", "the first one's numbers"), rows))


if __name__ == "__main__":
    main()
