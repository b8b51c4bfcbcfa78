"""The names under which MMDetection's CocoMetric reports its numbers, e.g. `coco/bbox_mAP_50`."""

import re
from collections.abc import Mapping

COLUMNS = {"": "AP", "_50": "AP50", "_75": "AP75", "_s": "APs", "_m": "APm", "_l": "APl"}
_KEY = re.compile(r"(?:coco/)?(?P<task>.*(?:bbox|segm|proposal))_mAP(?P<column>|_50|_75|_s|_m|_l)")


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
