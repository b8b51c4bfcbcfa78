"""AP on copies of annotation files is that of pycocotools on the user's own file."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_results import write_shapes
from scoring import exact_predictions, reference, scored

from localvit_det.config import load_config
from localvit_det.datasets.normalize import is_copy
from localvit_det.datasets.synthetic_shapes import CLASSES
from localvit_det.evaluation import ExactCocoMetric

CONFIG = "mask_rcnn_shuffle_nano_shapes"
FILE = "annotations/instances_val2017.json"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("copies") / "shapes")


def images(change: Callable[[str], str]) -> Callable[[dict], None]:
    def edit(content: dict) -> None:
        for image in content["images"]:
            image["file_name"] = change(image["file_name"])

    return edit


def annotations(**values: object) -> Callable[[dict], None]:
    """Other values; `...` takes the key away."""

    def edit(content: dict) -> None:
        for annotation in content["annotations"]:
            for key, value in values.items():
                annotation.pop(key) if value is ... else annotation.update({key: value})

    return edit


# What the user's file is like, and what makes it readable for pycocotools.
CASES: dict[str, tuple[Callable[[dict], object], Callable[[dict], object]]] = {
    "absolute names": (images(lambda name: f"/home/anna/pictures/{name}"), lambda _: None),
    "letter case": (images(str.upper), lambda _: None),
    "order of the categories": (lambda content: content["categories"].reverse(), lambda _: None),
    "no iscrowd": (annotations(iscrowd=...), annotations(iscrowd=0)),
    "crowds as objects": (annotations(iscrowd=1), annotations(iscrowd=0)),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_pycocotools_on_the_users_file(shapes, tmp_path, monkeypatch, case):
    monkeypatch.setenv("LOCALVIT_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "mine"
    shutil.copytree(shapes, root)
    change, needed = CASES[case]
    content = json.loads((root / FILE).read_text())
    change(content)
    (root / FILE).write_text(json.dumps(content))
    options = {"data_root": str(root), "classes": "auto", "crowds_as_objects": case == "crowds as objects"}
    cfg = load_config(CONFIG, options)
    assert cfg.classes == CLASSES
    assert is_copy(cfg.test_evaluator.ann_file)
    predictions = exact_predictions(shapes / FILE)
    expected = copy.deepcopy(content)
    needed(expected)
    expected = reference(expected, predictions)
    found = scored(ExactCocoMetric, Path(cfg.test_evaluator.ann_file), predictions)
    for task, numbers in expected.items():
        assert 0.05 < numbers[0] < 0.95
        np.testing.assert_allclose(found[task], numbers, rtol=0, atol=1e-6)
