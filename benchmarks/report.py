"""How long the report of a large evaluation takes: `python -m benchmarks.report`.

By default an evaluation of the size of LVIS's validation set, of numbers drawn at random: the evaluation itself, which
is pycocotools', is not part of it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from localvit_det.analysis.coco import Evaluation
from localvit_det.analysis.page import render
from localvit_det.analysis.results import result_sections
from localvit_det.cli import handle_user_errors
from localvit_det.evaluation.coco import GroundTruth

_SIDE = 640  # pixels of an image


def draw_evaluation(images: int, objects: int, classes: int, seed: int = 0) -> Evaluation:
    """Return an evaluation of boxes: most objects are found, some as another class, and some are made up.

    Classes have very different numbers of objects, as in LVIS, and the last ones none.
    """
    rng = np.random.default_rng(seed)
    names = [f"class {index:04d}" for index in range(classes)]
    weights = 1 / np.arange(1, classes + 1)
    weights[-max(1, classes // 10) :] = 0
    category = rng.choice(classes, objects, p=weights / weights.sum()) + 1
    image, corner = rng.integers(1, images + 1, objects), rng.uniform(0, _SIDE - 100, (objects, 2))
    boxes = np.concatenate([corner, rng.uniform(10, 100, (objects, 2))], 1)
    content: dict[str, Any] = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": _SIDE, "height": _SIDE} for i in range(1, images + 1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
        "annotations": [
            {"id": i, "image_id": im, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, (im, c, box) in enumerate(zip(image.tolist(), category.tolist(), boxes.tolist(), strict=True), 1)
        ],
    }
    taken_for = np.where(rng.random(objects) < 0.8, category, rng.permutation(category))
    moved = boxes + rng.normal(0, 3, boxes.shape)
    found = [
        {"image_id": im, "category_id": c, "bbox": [*box[:2], max(1.0, box[2]), max(1.0, box[3])], "score": score}
        for im, c, box, score, kept in zip(
            image.tolist(),
            taken_for.tolist(),
            moved.tolist(),
            rng.random(objects).tolist(),
            (rng.random(objects) < 0.9).tolist(),
            strict=True,
        )
        if kept
    ]
    truth = GroundTruth(content, None, names, masks=False)
    precision = np.sort(rng.random((10, 101, classes, 4, 3)), axis=1)[:, ::-1]
    precision[:, :, np.bincount(category, minlength=classes + 1)[1:] == 0] = -1
    evaluator: Any = SimpleNamespace(
        eval={"precision": precision, "scores": precision},
        params=SimpleNamespace(iouThrs=np.linspace(0.5, 0.95, 10), recThrs=np.linspace(0, 1, 101)),
    )
    return Evaluation(truth, truth.loadRes(found), dict(enumerate(names, 1)), {"bbox": evaluator})


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Draw, measure, print seconds of the processor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=19_809)
    parser.add_argument("--objects", type=int, default=244_707)
    parser.add_argument("--classes", type=int, default=1_203)
    args = parser.parse_args(argv)
    evaluation = draw_evaluation(args.images, args.objects, args.classes)
    start = time.process_time()
    sections = result_sections(evaluation)
    middle = time.process_time()
    page = render("report", sections)
    seconds = time.process_time() - middle
    print(f"{middle - start:.1f} s for the sections, {seconds:.1f} s for a page of {len(page):,} bytes")


if __name__ == "__main__":
    main()
