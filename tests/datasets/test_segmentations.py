"""What is said of a segmentation, and that it stops exactly what breaks on it."""

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from localvit_det.datasets import segmentations
from localvit_det.datasets.segmentations import FAR, mask_fault

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
        assert segmentations._decoded(counts) == np.diff([0, *changes, flat.size]).tolist()
        assert mask_fault({"size": [height, width], "counts": counts}, width, height) is None
        assert mask_fault({"size": [height, width], "counts": counts[:-1]}, width, height) is not None
