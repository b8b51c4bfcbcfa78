"""What pycocotools prints goes to the log, line by line; what the record of an evaluation says of the machine."""

import logging
import sys
from pathlib import Path

import pytest
from made_results import write_shapes
from mmengine.logging import MMLogger
from scoring import exact_predictions, scored

from localvit_det.datasets.synthetic_shapes import CLASSES
from localvit_det.engine import ReliableRunner
from localvit_det.evaluation import ExactCocoMetric, coco, record
from localvit_det.evaluation.coco import prints_logged

FILE = "annotations/instances_val2017.json"


class Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def kept(monkeypatch, name: str) -> list[str]:
    logger, handler = MMLogger(name), Kept()
    logger.handlers = [handler]
    monkeypatch.setattr(coco.MMLogger, "get_current_instance", lambda: logger)
    return handler.lines


def test_lines_are_logged_when_they_are_whole(monkeypatch, capsys):
    lines = kept(monkeypatch, "whole")
    with prints_logged():
        print("of ", end="")
        assert lines == []
        print("two parts\n\n 100 % {}")
        assert lines == ["of two parts", " 100 % {}"]
        print("without an end", end="")
    assert lines[2:] == ["without an end"]
    print("afterwards")
    assert capsys.readouterr().out == "afterwards\n"


def test_loading_and_scores(tmp_path, monkeypatch, capsys):
    root = write_shapes(tmp_path / "shapes")
    predictions = exact_predictions(root / FILE)
    lines = kept(monkeypatch, "scores")
    capsys.readouterr()
    scored(ExactCocoMetric, root / FILE, predictions)
    indexed = lines.count("index created!")
    assert indexed
    assert sum(line.startswith(" Average ") for line in lines) >= 24  # of boxes and of masks
    dataset = {
        "type": "CocoDataset",
        "ann_file": str(root / FILE),
        "data_prefix": {"img": str(root)},
        "metainfo": {"classes": CLASSES},
        "_scope_": "mmdet",
    }
    sampler = {"type": "DefaultSampler", "shuffle": False}
    ReliableRunner.build_dataloader({"dataset": dataset, "batch_size": 1, "sampler": sampler})
    assert lines.count("index created!") == indexed + 1
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_the_peak_of_the_process():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    assert record.peak_memory() == pytest.approx(int(line.split()[1]) * 1024, rel=0.05)


def test_memory_on_other_systems(monkeypatch):
    here = record.peak_memory()
    monkeypatch.setattr(sys, "platform", "win32")
    assert record.peak_memory() is None
    monkeypatch.setattr(sys, "platform", "darwin")  # in bytes there
    assert record.peak_memory() == pytest.approx(here / 1024, rel=0.05)
