"""Polygons that are taken out of a file unparsed are those, and only those, that parsing would find good."""

import json
import random

import pytest

from localvit_det.datasets.segmentations import PLAIN, mask_fault, without_plain_polygons


def file_of(polygons: list[str]) -> bytes:
    return ("[" + ", ".join(f'{{"segmentation": {one}, "id": {i}}}' for i, one in enumerate(polygons)) + "]").encode()


GOOD = "[[1, 2, 30.25, -4, 5000, 6.123456789]]"


@pytest.mark.parametrize(
    "one",
    [GOOD, "[[1,2,3,4,5,6],[0,0.5,3,4,5,6,7,-8]]", "[[1,\n 2,\t3,4,5,6 ] , [1,2,3,4,5,6]]", "[ [ 1, 2, 3, 4, 5, 6 ] ]"],
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
    content = without_plain_polygons(file_of([GOOD, one, GOOD]))
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
