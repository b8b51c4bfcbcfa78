"""What an evaluation leaves behind for its report: predictions, and how they came about."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmdet.evaluation import DumpDetResults
from mmengine.config import Config
from mmengine.evaluator import DumpResults
from mmengine.runner import Runner

from ..checkpoint.publish import versions
from ..config.utils import dataset_paths, find_datasets, is_coco_metric, walk
from ..config_names import type_name
from ..errors import ConfigError, DataError
from ..files import check_writable_folder, write_text

FOLDER = "evaluation"  # below the work dir
_RECORD = "evaluation.json"


@dataclass(frozen=True)
class EvaluationRecord:
    """An evaluation of objects with COCO's metric."""

    config: str  # name
    checkpoint: str
    predictions: str  # a JSON file in the format of COCO's results
    annotations: str  # the ground truth
    images: str | None  # the folder; None where it is not local
    classes: list[str]  # in the order of the labels
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None  # of a batch, the median; loading included
    loading_seconds: float | None = None  # of them, waiting for data
    batch_size: int | None = None
    image_count: int | None = None
    image_ids: list[Any] | None = None  # None if they are all of the annotation file
    memory: float | None = None  # peak in MiB: PyTorch's on a GPU, else of the process
    device: str = ""  # where the model ran
    versions: dict[str, str] = field(default_factory=dict)
    start: str = ""  # when, as the folder of its log is called
    pixel_range: float | list[float] | None = None  # the config's setting


def keep_predictions(cfg: Config) -> None:
    """Make a test write its predictions below its work dir; those of an earlier one are removed.

    Raises:
        ConfigError: The config evaluates with something else than COCO's metric, or has no ground truth.
        OutputError: Nothing can be written there.
    """
    metric = _metric(cfg)
    if metric.get("format_only"):
        raise ConfigError("--report compares with ground truth, and the config has none (format_only): leave it out.")
    folder = Path(cfg.work_dir, FOLDER).absolute()
    check_writable_folder(folder, "the work dir's")
    metric.setdefault("outfile_prefix", str(folder / "predictions"))
    # A test of boxes alone would otherwise leave the masks of another one.
    for file in (folder / _RECORD, *(Path(f"{metric['outfile_prefix']}.{kind}.json") for kind in ("bbox", "segm"))):
        file.unlink(missing_ok=True)


def _metric(cfg: Config) -> dict:
    nodes = [node for _, node in walk(cfg.get("test_evaluator"))]
    if found := next(filter(is_coco_metric, nodes), None):
        return found
    kinds = ", ".join(sorted(set(map(type_name, nodes))))
    raise ConfigError(f"--report reads what CocoMetric writes, and this config evaluates with {kinds}: leave it out.")


def dump_metric(cfg: Config, file: str) -> DumpResults:
    """Return a metric that writes all predictions into a pickle."""
    if cfg.get("default_scope") == "mmseg":
        return DumpResults(out_file_path=file)
    return DumpDetResults(out_file_path=file)


def write_record(runner: Runner, metrics: Mapping[str, Any]) -> Path:
    """Write what a test has done, and return the file; called in the first process only."""
    cfg, metric = runner.cfg, _metric(runner.cfg)
    prefix = metric["outfile_prefix"]
    masks = Path(f"{prefix}.segm.json")
    _, dataset = next(find_datasets(cfg, "test"))
    scalars = runner.message_hub.log_scalars
    times = {key: scalars[f"test/{key}"].data[0] for key in ("time", "data_time") if f"test/{key}" in scalars}
    loader = runner.test_dataloader
    on_gpu = torch.cuda.is_available()
    record = EvaluationRecord(
        config=Path(cfg.filename or cfg.load_from).stem,
        checkpoint=os.path.abspath(cfg.load_from),
        predictions=os.path.abspath(masks if masks.is_file() else f"{prefix}.bbox.json"),
        annotations=os.path.abspath(metric.get("ann_file") or f"{prefix}.gt.json"),
        images=(folder := dataset_paths(dataset)[1]) and os.path.abspath(folder),
        classes=list(loader.dataset.metainfo["classes"]),
        metrics={key: value for key, value in metrics.items() if isinstance(value, (int, float))},
        seconds=float(median(times["time"])) if "time" in times else None,
        loading_seconds=float(median(times["data_time"])) if "data_time" in times else None,
        batch_size=loader.batch_size,
        image_count=len(loader.dataset),
        image_ids=next((one.image_ids for one in runner.test_evaluator.metrics if hasattr(one, "image_ids")), None),
        memory=None if (peak := peak_memory()) is None else peak / 2**20,
        device=torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads",
        versions=versions(),
        start=runner.timestamp,
        pixel_range=cfg.get("pixel_range"),
    )
    path = Path(cfg.work_dir, FOLDER, _RECORD)
    write_text(path, json.dumps(asdict(record), indent=1))
    return path


def read_record(work_dir: str | os.PathLike) -> EvaluationRecord | None:
    """Return the record of the last evaluation in a work dir, None where there is none.

    Raises:
        DataError: It cannot be read.
    """
    path = Path(work_dir, FOLDER, _RECORD)
    if not path.is_file():
        return None
    try:
        return EvaluationRecord(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}): evaluate again with `localvit test … --report`.") from error


def peak_memory() -> int | None:
    """Return the bytes that the GPU, or else this process, has used at most; None where that is not known."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
