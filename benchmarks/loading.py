"""The time to load a picture, and a picture with masks, next to MMDetection's: `python -m benchmarks.scale loading`.

Both sides load each picture in turn, in one process; shown are the medians of CPU milliseconds, one for each picture,
averaged. What they load is compared number by number.
"""

import copy
import os
import pickle
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import localvit_det  # noqa: F401 - operators that MMDetection needs


def pictures(root: Path) -> list[dict]:
    """Return what MMDetection gives its pipelines, for each picture of a folder in COCO's layout."""
    from mmdet.datasets import CocoDataset

    found = []
    for split in ("train2017", "val2017"):
        file = f"annotations/instances_{split}.json"
        dataset = CocoDataset(data_root=str(root), ann_file=file, data_prefix={"img": split}, pipeline=[])
        found += [dataset.get_data_info(i) for i in range(len(dataset))]
    return found


def pipelines() -> dict[str, Any]:
    """Return ours and MMDetection's transforms, from loading to packing."""
    from mmcv.transforms import LoadImageFromFile
    from mmengine.dataset import Compose

    from localvit_det.datasets import LoadImageFromFile as OurLoad
    from localvit_det.datasets.load_image import protect_loading

    rest = [{"type": "Resize", "scale": (1333, 800), "keep_ratio": True}, {"type": "RandomFlip", "prob": 0.5}]
    rest.append({"type": "PackDetInputs"})
    kinds = {"mmdet": (LoadImageFromFile, "LoadAnnotations"), "ours": (OurLoad, "LoadCompactAnnotations")}
    found = {
        name: Compose([image(), {"type": masks, "with_bbox": True, "with_mask": True}, *rest])
        for name, (image, masks) in kinds.items()
    }
    protect_loading(found["ours"], {})
    return found


def same(one: Any, other: Any) -> bool:
    """Whether images, boxes, labels and masks agree in every number."""
    if "img" in one:
        return np.array_equal(one["img"], other["img"])
    truths = [results["data_samples"].gt_instances for results in (one, other)]
    pairs = [(one["inputs"], other["inputs"]), *(zip(*((t.bboxes.tensor, t.labels) for t in truths), strict=True))]
    masks = np.array_equal(*(truth.masks.masks for truth in truths))
    return masks and all(bool((a == b).all()) for a, b in pairs)


def compare(root: Path | None, rounds: int) -> None:
    """Print a line for loading alone, for the whole pipeline, and with what becomes of masks after it.

    Raises:
        AssertionError: Both sides load other numbers.
    """
    from mmengine.registry import init_default_scope

    init_default_scope("mmdet")
    root = root or Path(os.environ.get("LOCALVIT_COCO", "data/coco"))
    cv2.setNumThreads(1)
    items, whole = pictures(root), pipelines()
    ways: dict[str, tuple[dict, Callable[[Any], Any]]] = {
        "picture": ({name: pipeline.transforms[0] for name, pipeline in whole.items()}, lambda results: None),
        "pipeline": (whole, lambda results: None),
        "pipeline, masks as bitmaps": (whole, lambda results: results["data_samples"].gt_instances.masks.masks),
        "pipeline, sent, masks as bitmaps": (
            whole,
            lambda results: pickle.loads(pickle.dumps(results["data_samples"])).gt_instances.masks.masks,
        ),
    }
    for name, (sides, then) in ways.items():
        times: dict[str, list[list[float]]] = {side: [[] for _ in items] for side in sides}
        for number in range(rounds + 1):  # the first one warms up
            for at, item in enumerate(items):
                found = {}
                for side in sorted(sides, reverse=bool((number + at) % 2)):
                    np.random.seed(at)
                    random.seed(at)
                    results = copy.deepcopy(item)
                    start = time.process_time()
                    results = sides[side](results)
                    then(results)
                    times[side][at].append(time.process_time() - start)
                    found[side] = results
                assert number or same(found["ours"], found["mmdet"]), item["img_path"]
        ours, theirs = (1e3 * statistics.mean(statistics.median(t[1:]) for t in times[s]) for s in ("ours", "mmdet"))
        print(f"{name:34} ours {ours:6.2f} ms, MMDetection {theirs:6.2f} ms: {ours / theirs:.3f}")
