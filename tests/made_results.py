"""Made up results: predictions for synthetic shapes, and logs of trainings in MMEngine's format."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from localvit_det.analysis.coco import Evaluation, evaluate
from localvit_det.datasets.synthetic_shapes import make_shapes


def write_shapes(root: Path, train: int = 3, val: int = 12) -> Path:
    return make_shapes(root, num_train=train, num_val=val, size=96)


def make_predictions(annotations: Path, seed: int = 0) -> list[dict]:
    """Of every five objects one is missed, one has another class; one more prediction lies where nothing is."""
    coco, rng = COCO(str(annotations)), np.random.default_rng(seed)
    categories = sorted(coco.cats)
    found = []
    for number, one in enumerate(coco.dataset["annotations"]):
        if number % 5 == 0:
            continue
        category = one["category_id"]
        if number % 5 == 1:
            category = categories[(categories.index(category) + 1) % len(categories)]
        found.append(
            {
                "image_id": one["image_id"],
                "category_id": category,
                "bbox": [float(value) for value in np.array(one["bbox"]) + rng.normal(0, 1.5, 4)],
                "score": float(rng.uniform(0.2, 1)),
                "segmentation": _rle(coco.annToRLE(one)),
            }
        )
        if number % 5 == 2:
            found.append({**found[-1], "score": 0.31, "category_id": categories[0], "bbox": [0.0, 0.0, 9.0, 9.0]})
            found[-1]["segmentation"] = _rle(coco.annToRLE({**one, "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]]}))
    return found


def _rle(mask: dict) -> dict:
    return {"size": mask["size"], "counts": mask["counts"].decode()}


def write_predictions(root: Path, content: list[dict] | None = None) -> Path:
    path = root / "predictions.json"
    content = make_predictions(root / "annotations/instances_val2017.json") if content is None else content
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A folder with `predictions.json` of its val set."""
    root = write_shapes(tmp_path_factory.mktemp("results") / "shapes")
    write_predictions(root)
    return root


@pytest.fixture(scope="module")
def evaluation(results) -> Evaluation:
    annotations = results / "annotations/instances_val2017.json"
    return evaluate(annotations, results / "predictions.json", images=results / "val2017")


def write_log(
    work_dir: Path, epochs: range, start: str = "20260101_000000", by_epoch: bool = True, **step: float
) -> Path:
    """Five logged iterations an epoch of ten, and a validation after each epoch; the last line is cut off."""
    rows = []
    for epoch in epochs:
        for i in range(2, 11, 2):
            iteration = 10 * (epoch - 1) + i
            row = {"loss": 8 / iteration, "loss_cls": 1.0, "lr": 0.1, "time": 0.5, "iter": iteration, **step}
            rows.append(row | ({"epoch": epoch} if by_epoch else {}))
        at = epoch if by_epoch else 10 * epoch
        rows.append({"coco/bbox_mAP": 0.1 * epoch, "coco/segm_mAP": 0.05 * epoch, "time": 9.0, "step": at})
    folder = work_dir / start / "vis_data"
    folder.mkdir(parents=True)
    (folder / "scalars.json").write_text("\n".join(map(json.dumps, rows)) + '\n{"loss": 0.')
    return work_dir
