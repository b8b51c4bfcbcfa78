"""The summary of an annotation file says of each annotation what MMDetection's own loader does with it."""

import itertools
import json
from collections.abc import Iterator
from random import Random

import pytest
from coco_folder import dataset_config
from mmdet.registry import DATASETS

from localvit_det.datasets import annotations
from localvit_det.datasets.annotations import (
    DEGENERATE,
    EDGE_TOLERANCE,
    FAR,
    read_annotations,
)
from localvit_det.datasets.json_stream import Columns
from localvit_det.datasets.summary import Annotations, Faults
from localvit_det.errors import DataError

WIDTH, HEIGHT = 60, 40
GOOD = {"bbox": [5, 6, 20, 10], "area": 100.0, "iscrowd": 0, "category_id": 1, "image_id": 1}
GOOD |= {"segmentation": [[5, 6, 25, 6, 25, 16]]}


def places(images: dict) -> dict:
    return {name: array.tolist() for name, array in images.items()}


@pytest.fixture
def summary(tmp_path):
    def make(annotations: list[dict], order=(), **content):
        rows = [{**GOOD, "id": i, **one} for i, one in enumerate(annotations, 1)]
        rows = [{key: value for key, value in one.items() if value is not ...} for one in rows]
        images = [{"id": i, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in (1, 2)]
        categories = [{"id": 1, "name": "cat"}, {"id": 4, "name": "dog"}]
        whole = {"images": images, "categories": categories, "annotations": rows, **content}
        whole = {**dict.fromkeys(order), **whole}
        (tmp_path / "file.json").write_text(json.dumps(whole))
        return read_annotations(tmp_path / "file.json")

    return make


def test_faults_are_what_the_loader_drops(summary, tmp_path):
    sides = (0, 0.5, 0.99, 1, 1.01, 7)
    edges = ((-7, 3), (-6, 3), (WIDTH - 1, 3), (WIDTH, 3), (3, -7), (3, -6), (3, HEIGHT), (3, HEIGHT - 1), (0, 0))
    rows = [{"bbox": [3, 3, w, h]} for w, h in itertools.product(sides, sides)]
    rows += [{"bbox": [*corner, 7, 7]} for corner in edges] + [{"area": area} for area in (-1, 0, 0.5, 1)]
    rows += [{"ignore": value} for value in (0, 1, True, None)] + [{"category_id": 2}, {"category_id": 4}]
    found = summary(rows)
    own = {"ann_file": "file.json", "metainfo": {"classes": ("cat", "dog")}, "pipeline": [], "serialize_data": False}
    dataset = DATASETS.build(dataset_config(tmp_path, **own))
    kept = [instance["bbox"] for info in dataset.data_list for instance in info["instances"]]
    assert len(rows) - found.faults.count() == len(kept)
    dropped = {number for numbers in found.faults.values() for number in numbers}
    loaded = [row for i, row in enumerate(rows, 1) if i not in dropped]
    boxes = [{**GOOD, **row}["bbox"] for row in loaded]
    assert sorted([x, y, x + w, y + h] for x, y, w, h in boxes) == sorted(kept)


def test_files_that_memory_cannot_hold_are_refused(summary, tmp_path, monkeypatch):
    summary([{}])
    size = (tmp_path / "file.json").stat().st_size
    for left in (2 * size, 2 * size - 1):
        monkeypatch.setattr(annotations, "memory_left", lambda left=left: left)
        annotations.forget_annotations()
        if left == 2 * size:
            assert read_annotations(tmp_path / "file.json").boxes == 1
        else:
            with pytest.raises(DataError, match="takes up to 2 times as much, more than the"):
                read_annotations(tmp_path / "file.json")
    monkeypatch.undo()


def test_far_is_not_at_once_too_far(summary):
    found = summary([{"bbox": [FAR * (WIDTH + HEIGHT) - 10, 6, 10, 10]}])
    assert not found.errors
    assert found.over_edge == 1


def test_counts(summary):
    slack = EDGE_TOLERANCE
    found = summary(
        [
            {"iscrowd": 1, "segmentation": {"counts": [0, 5], "size": [HEIGHT, WIDTH]}},
            {"segmentation": {"counts": [0, 5], "size": [HEIGHT, WIDTH]}, "category_id": 4, "image_id": 2},
            {"segmentation": []},
            {"iscrowd": ..., "area": ...},
            {"bbox": [-slack, -slack, WIDTH + 2 * slack, HEIGHT + 2 * slack]},  # within the tolerance
            {"bbox": [-slack - 1, 0, 9, 9]},
            {"bbox": [0, -slack - 1, 9, 9]},
            {"bbox": [0, 0, WIDTH + slack + 1, 9]},
            {"bbox": [0, 0, 9, HEIGHT + slack + 1]},
            {"bbox": [0.1, 0.2, 0.5, 0.8]},  # a share of the image, and too small
            {"bbox": [20, 10, 50, 30]},  # like corners; a lot over the edge
            {"bbox": [5, 6, 8, 30]},  # as well, inside
        ]
    )
    assert (found.boxes, found.crowds, found.rle, found.without_mask) == (12, 1, 1, 1)
    assert (found.without_iscrowd, found.without_area) == (1, 1)
    assert (found.over_edge, found.like_fractions) == (5, 1)
    assert found.like_corners == 9  # all but the three that are wider or higher than the image
    assert places(found.annotated) == {"cat": [0], "dog": [1]}
    assert places(found.named) == {"cat": [0], "dog": [1]}
    assert found.faults == {DEGENERATE: [10]}


def test_the_most_frequent_reason_comes_first():
    faults = Faults()
    for reason, number in (("are small", 1), ("have NaN", 4), ("are far", 2)):
        for identity in range(number):
            faults.add(reason, identity)
    said = faults.summary()
    assert sorted(("are small", "have NaN", "are far"), key=said.index) == ["have NaN", "are far", "are small"]


def odd_rows(random: Random) -> Iterator[dict]:
    """Annotations of which most are good, and others have something wrong or unusual."""
    rle = {"counts": [0, 5, WIDTH * HEIGHT - 5], "size": [HEIGHT, WIDTH]}
    masks = ([], None, ..., rle, [[1, 2, 3, 4]], [[5, 6, 25, 6, 25, 16], [1, 2]], [[5, 6, 1e9, 6, 25, 16]])
    while True:
        row: dict = {}
        if random.random() < 0.4:
            row["bbox"] = [random.choice((-9, -2, 0, 0.4, 1, 7.5, 30, 61, 900, 1e5)) for _ in range(4)]
        if random.random() < 0.2:
            row["area"] = random.choice((-1, 0, 0.5, 7, 1e6))
        if random.random() < 0.2:
            row |= {"image_id": random.choice((1, 2, 9)), "category_id": random.choice((1, 4, 9))}
        if random.random() < 0.2:
            row["iscrowd"] = 1
        if random.random() < 0.3:
            row["segmentation"] = random.choice(masks)
        yield row


UNUSUAL = (
    {},
    {"id": "a"},
    {"iscrowd": ...},
    {"area": ...},
    {"ignore": 1},
    {"iscrowd": 2},
    {"bbox": [1, 2, float("nan"), 3]},
    {"area": "3"},
    {"area": None},
    {"image_id": 1.0},
    {"id": 2**70},
    {"bbox": [True, 2, 3, 2**70]},
)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("order", [("images", "categories", "annotations"), ("annotations", "images", "categories")])
def test_many_at_once_are_checked_as_one_by_one(summary, monkeypatch, seed, order):
    random = Random(seed)
    rows = [*itertools.islice(odd_rows(random), 30), random.choice(UNUSUAL)]
    if seed % 3 == 1:
        rows = [{**row, "iscrowd": ..., "area": ...} for row in rows]
    found = summary(rows, order=order)
    annotations.forget_annotations()
    monkeypatch.setattr(Columns, "of", lambda items: None)
    wanted = summary(rows, order=order)
    for key, value in vars(wanted).items():
        if key in ("annotated", "named"):
            assert places(getattr(found, key)) == places(value)
        elif isinstance(value, Faults):
            assert getattr(found, key).counts == value.counts
            assert {k: sorted(v, key=str) for k, v in getattr(found, key).items()} == {
                k: sorted(v, key=str) for k, v in value.items()
            }
        else:
            assert getattr(found, key) == value
    again = Annotations.restored((json.loads(json.dumps(found.stored()[0])), found.stored()[1]))
    assert str(again) == str(found)
