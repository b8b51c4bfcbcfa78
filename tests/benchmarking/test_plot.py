"""The picture of latency and memory."""

import itertools

import numpy as np
import pytest
from conftest import REPOSITORY
from matplotlib import image

from benchmarking import plot

pytestmark = pytest.mark.measuring

FOLDER = REPOSITORY / "docs/benchmark/inference"


def test_picture_follows_from_the_numbers_and_names_every_point(tmp_path, monkeypatch):
    panels = plot.read_panels(FOLDER / "benchmark.json")
    parted = []
    part = plot._part
    monkeypatch.setattr(plot, "_part", lambda names: (part(names), parted.append(names)))
    assert plot.draw(panels, tmp_path / "benchmark.png")
    for records, names in zip(panels, parted, strict=True):
        assert [name.get_text() for name in names] == [r["row"] for r in records if r["latency"] and r["memory"]]
        places = [name.get_window_extent() for name in names]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(places, 2))
    drawn, kept = image.imread(tmp_path / "benchmark.png"), image.imread(FOLDER / "benchmark.png")
    assert drawn.shape == kept.shape
    assert np.abs(drawn - kept).mean() < 0.01  # other fonts may move a digit


def test_nothing_to_draw(tmp_path):
    record = {"row": "a", "latency": None, "memory": None, "size": [8, 8], "mode": "inference"}
    assert not plot.draw([[record]], tmp_path / "benchmark.png")
    assert not (tmp_path / "benchmark.png").exists()
