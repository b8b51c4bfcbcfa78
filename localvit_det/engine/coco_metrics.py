"""The names under which metrics report their numbers, e.g. MMDetection's CocoMetric `coco/bbox_mAP_50`."""

import re
from collections.abc import Mapping

COLUMNS = {"": "AP", "_50": "AP50", "_75": "AP75", "_s": "APs", "_m": "APm", "_l": "APl"}
_KEY = re.compile(r"(?:coco/)?(?P<task>.*(?:bbox|segm|proposal))_mAP(?P<column>|_50|_75|_s|_m|_l)")
# The one number of other tasks, and what it counts up to there (a curve goes to 1).
_OTHERS = {"coco_panoptic/PQ": ("PQ", 100), "mIoU": ("mIoU", 100), "accuracy/top1": ("top-1 accuracy", 100)}


def headline_metrics(metrics: Mapping[str, object]) -> dict[str, float]:
    """The number of each task that its curve shows, from 0 to 1: COCO's AP, PQ, mIoU, accuracy."""
    found = {task: row["AP"] for task, row in coco_rows(metrics).items() if "AP" in row}
    return found | {name: float(metrics[key]) / full for key, (name, full) in _OTHERS.items() if key in metrics}


def coco_rows(metrics: Mapping[str, object]) -> dict[str, dict[str, float]]:
    """Sorts metrics by task and column, e.g. {'bbox': {'AP': 0.4, 'AP50': 0.6}}; ignores all others."""
    rows: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        if match := _KEY.fullmatch(key):
            rows.setdefault(match["task"], {})[COLUMNS[match["column"]]] = float(value)
    return rows


def coco_table(metrics: Mapping[str, object]) -> str:
    """Plain monospace table of `coco_rows`; '-' where the set has no objects (pycocotools' -1)."""
    rows = coco_rows(metrics)
    width = max([6, *map(len, rows)])
    lines = [" " * width + "".join(f"{name:>8}" for name in COLUMNS.values())]
    for task, values in rows.items():
        cells = (values.get(name, -1.0) for name in COLUMNS.values())
        lines.append(f"{task:<{width}}" + "".join(f"{cell:>8.3f}" if cell >= 0 else f"{'-':>8}" for cell in cells))
    return "\n".join(lines)
