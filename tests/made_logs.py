"""Logs of trainings in MMEngine's format, made up."""

import json
from pathlib import Path


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
