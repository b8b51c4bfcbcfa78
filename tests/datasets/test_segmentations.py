"""Faults of segmentations stop exactly what breaks on them; what is taken out of a file unparsed is good."""

import json
import random

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from localvit_det.datasets import segmentations
from localvit_det.datasets.annotations import read_annotations
from localvit_det.datasets.segmentations import FAR, PLAIN, mask_fault, without_plain_polygons

W, H = 30, 20
GOOD = [1, 2, 9, 2, 9, 8]
LIMIT = FAR * W


@pytest.mark.parametrize(
    ("mask", "fault"),
    [
        (None, None),
        ([], None),
        ([GOOD], None),
        ([GOOD, [1, 2, 3, 4, 5, 6, 7, 8]], None),
        ("polygon", ("NO_MASK", True)),
        (7, ("NO_MASK", True)),
        (GOOD, ("FLAT", True)),
        ([1.5, *GOOD], ("FLAT", True)),
        (["a"], ("NO_MASK", True)),
        ([GOOD, "a"], ("NO_MASK", True)),
        ([GOOD, None], ("NO_MASK", True)),
        ([[*GOOD, "7", 8]], ("NOT_NUMBERS", True)),
        ([[1, None, 3, 4, 5, 6]], ("NOT_NUMBERS", True)),
        ([[float("nan"), *GOOD[1:]]], ("NOT_FINITE", True)),
        ([[float("inf"), *GOOD[1:]]], ("NOT_FINITE", True)),
        ([[10**400, 0.5, *GOOD[2:]]], ("TOO_FAR", True)),
        ([[LIMIT, *GOOD[1:]]], None),
        ([[LIMIT + 1, *GOOD[1:]]], ("TOO_FAR", True)),
        ([[-LIMIT, *GOOD[1:]]], None),
        ([[-LIMIT - 1, *GOOD[1:]]], ("TOO_FAR", True)),
        ([GOOD, [1, 2, 3, 4]], ("BAD_PART", False)),
        ([GOOD, [1, 2, 3, 4, 5, 6, 7]], ("BAD_PART", False)),
        ([GOOD, []], ("BAD_PART", False)),
        ([[1, 2, 3, 4]], ("NO_POLYGON", False)),
        ([[], [1, 2, 3, 4, 5, 6, 7]], ("NO_POLYGON", False)),
        ({"size": [H, W], "counts": [5, W * H - 5]}, None),
        ({"size": [H, W], "counts": [0, W * H]}, None),
        ({"size": [W, H], "counts": [5, W * H - 5]}, ("OTHER_SIZE", True)),
        ({"size": [H], "counts": [5, W * H - 5]}, ("BAD_RLE", True)),
        ({"size": (H, W), "counts": [5, W * H - 5]}, ("BAD_RLE", True)),
        ({"size": [H, W]}, ("BAD_RLE", True)),
        ({"size": [H, W], "counts": [5, W * H - 4]}, ("BAD_RLE", True)),
        ({"size": [H, W], "counts": [-1, W * H + 1]}, ("BAD_RLE", True)),
        ({"size": [H, W], "counts": [5.0, W * H - 5]}, ("BAD_RLE", True)),
        ({"size": [H, W], "counts": "not one"}, ("BAD_RLE", True)),
        ({"size": [H, W], "counts": ""}, ("BAD_RLE", True)),
    ],
    ids=str,
)
def test_fault_and_whether_it_stops(mask, fault):
    found = mask_fault(mask, W, H)
    assert found == (fault and (getattr(segmentations, fault[0]), fault[1]))


def test_outlines_without_end_are_too_far(monkeypatch):
    zigzag = [0, 0, LIMIT, 0] * 5
    assert mask_fault([zigzag], W, H) is None
    monkeypatch.setattr(segmentations, "_MAX_LENGTH", 9 * LIMIT)
    assert mask_fault([zigzag], W, H) is None
    monkeypatch.setattr(segmentations, "_MAX_LENGTH", 9 * LIMIT - 1)
    assert mask_fault([zigzag], W, H) == (segmentations.TOO_FAR, True)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_compressed_runs_are_those_of_pycocotools(share):
    rng = np.random.default_rng(0)
    for height, width in ((H, W), (200, 300), (1, 1)):
        mask = np.asfortranarray(rng.random((height, width)) < share, np.uint8)
        counts = coco_masks.encode(mask)["counts"].decode()
        flat = mask.flatten(order="F")
        changes = np.flatnonzero(np.diff(np.concatenate([[0], flat])))
        np.testing.assert_array_equal(segmentations._decoded(counts), np.diff([0, *changes, flat.size]))
        assert mask_fault({"size": [height, width], "counts": counts}, width, height) is None
        assert mask_fault({"size": [height, width], "counts": counts[:-1]}, width, height) is not None


def file_of(polygons: list[str]) -> bytes:
    return ("[" + ", ".join(f'{{"segmentation": {one}, "id": {i}}}' for i, one in enumerate(polygons)) + "]").encode()


PLAIN_GOOD = "[[1, 2, 30.25, -4, 5000, 6.123456789]]"


@pytest.mark.parametrize(
    "one",
    [
        PLAIN_GOOD,
        "[[1,2,3,4,5,6],[0,0.5,3,4,5,6,7,-8]]",
        "[[1,\n 2,\t3,4,5,6 ] , [1,2,3,4,5,6]]",
        "[ [ 1, 2, 3, 4, 5, 6 ] ]",
    ],
)
def test_plain_ones_are_taken_out(one):
    mark = f'"segmentation":"{PLAIN}"'
    expected = "[" + ", ".join(f'{{{mark}, "id": {index}}}' for index in range(3)) + "]"
    assert without_plain_polygons(file_of([one] * 3)).decode() == expected
    assert mask_fault(json.loads(one), 5000, 5000) is None


@pytest.mark.parametrize(
    "one",
    [
        "[[1, 2, 3, 4]]", "[[1, 2, 3, 4, 5, 6, 7]]", "[[]]", "[[1,2,3,4,5,6],[]]", "[1,2,3,4,5,6]",
        "[[[1,2,3,4,5,6]]]", "[[1,2,3,4,5,12345]]", "[[1,2,3,4,5,1.2.3]]", "[[1,2,3,4,5,1.]]",
        "[[1,2,3,4,5,.5]]", "[[1,2,3,4,5,--6]]", "[[1,2,3,4,5,-]]", "[[1,2,3,4,5,06]]", "[[1,2,3,4,5,-06]]",
        "[[1,2,3,,5,6]]", "[[1,2,3,4,5,6,]]", "[[1,2,3,4,5,6]", "[[1,2,3,4,5 6,7]]",
        "[[1,2,3,4,5,6]],[[1,2,3,4,5,6]]", "[[1,2,3,4,5,6],7]", "[7,[1,2,3,4,5,6]]", "[[1-2,3,4,5,6,7]]",
        "[[1,2,3,4,5,6]]]", "[[1,2,3,4,5,6],,[1,2,3,4,5,6]]", "[[1,2,3,4,5,6][1,2,3,4,5,6]]",
        "[[" + "1,2," * 3000 + "1,2]]",
    ],
)  # fmt: skip
def test_others_stay(one):
    content = without_plain_polygons(file_of([PLAIN_GOOD, one, PLAIN_GOOD]))
    assert f'"segmentation": {one}'.encode() in content


def test_random_texts_are_never_taken_out_wrongly():
    rng = random.Random(0)
    texts = ["[", "]", ",", ".", "-", "0", "7", " ", *[",1,2", "],[1,2,3,4,5,6", ".5", "7"] * 3]
    kept = 0
    for _ in range(4000):
        one = "[[1,2,3,4,5,6" + "".join(rng.choices(texts, k=rng.randint(1, 6))) + "]]"
        content = without_plain_polygons(file_of([one]))
        if PLAIN.encode() in content:
            kept += 1
            mask = json.loads(one)
            assert mask_fault(mask, 1000, 1000) is None  # up to four digits
            assert content == f'[{{"segmentation":"{PLAIN}", "id": 0}}]'.encode()
    assert 200 < kept < 3000


def test_the_mark_itself_is_no_mask_of_a_file():
    assert mask_fault("", 1, 1) is None
    assert len(PLAIN) == 16


def test_run_lengths_are_read_once_an_annotation(tmp_path, monkeypatch):
    counts = coco_masks.encode(np.asfortranarray(np.eye(H, W, dtype=np.uint8)))["counts"].decode()
    one = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 9, "iscrowd": 0}
    mask = {"size": [H, W], "counts": counts}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": W, "height": H}],
        "annotations": [{**one, "id": i, "segmentation": mask} for i in range(1, 5)],
        "categories": [{"id": 1, "name": "a"}],
    }
    path, decode, read = tmp_path / "a.json", segmentations._decoded, []
    path.write_text(json.dumps(content))
    monkeypatch.setattr(segmentations, "_decoded", lambda text: read.append(text) or decode(text))
    found = read_annotations(path)
    assert (found.rle, len(found.mask_errors), read) == (4, 0, [counts] * 4)
