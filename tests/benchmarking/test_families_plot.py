"""The drawing of several seeds of each family."""

from types import SimpleNamespace

import matplotlib.figure
import pytest

from benchmarking import families_plot

pytestmark = pytest.mark.measuring


def test_families_in_the_order_of_names_with_baselines_last(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(
        families_plot, "Figure", lambda **kw: figures.append(matplotlib.figure.Figure(**kw)) or figures[-1]
    )
    scores = {"SwinTransformer": [0.9, 0.8, 0.7], "TwinsSVT": [0.1, 0.2, 0.6], "DWNet": [0.5]}
    runs = [SimpleNamespace(name=name, bbox=bbox, segm=[0.25]) for name, bbox in scores.items()]
    families_plot.draw(runs, tmp_path / "families.png")
    (axes,) = figures[0].axes
    from_top = sorted(axes.get_yticklabels(), key=lambda label: -label.get_position()[1])
    assert [label.get_text().split("\n")[0] for label in from_top] == ["DWNet", "TwinsSVT", "SwinTransformer"]
    means = next(points for points in axes.collections if points.get_label() == "box mAP").get_offsets()
    assert dict(zip(("DWNet", "TwinsSVT", "SwinTransformer"), means[:, 0].round(3), strict=True)) == {
        "DWNet": 0.5,
        "TwinsSVT": 0.3,
        "SwinTransformer": 0.8,
    }
    assert (tmp_path / "families.png").read_bytes()[:4] == b"\x89PNG"
