"""docs/families.md has every family, with the parameters that its config builds today."""

import pytest
from conftest import REPOSITORY
from families import FAMILIES
from mmdet.registry import MODELS

from localvit_det.config import load_config

CONFIGS = {path.name: path for path in (REPOSITORY / "configs").glob("mask_rcnn_*_nano_shapes.py")}


def rows() -> dict[str, list[str]]:
    lines = (REPOSITORY / "docs/families.md").read_text(encoding="utf-8").splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return {name.split(" (")[0]: rest for name, *rest in cells if name != "backbone" and not name.startswith("---")}


def test_every_family_has_a_row():
    assert set(rows()) == {*FAMILIES, "PyramidVisionTransformer", "SwinTransformer"}
    for bbox, bbox_range, segm, segm_range, *_ in rows().values():
        for value, span in ((bbox, bbox_range), (segm, segm_range)):
            low, high = map(float, span.split(" to "))
            assert 0 < low <= float(value) <= high < 1


@pytest.mark.slow
def test_parameters_are_those_of_the_configs():
    found = {}
    for path in CONFIGS.values():
        cfg = load_config(path)
        model = MODELS.build(cfg.model)
        found[cfg.model.backbone.type] = f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M"
    assert found == {name: cells[-1] for name, cells in rows().items()}
