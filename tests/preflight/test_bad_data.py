"""Every bad input ends in its sentence, or in a counted skip; none in a traceback, none in gigabytes."""

import json
from functools import partial

import pytest
from bad_data import CASES, write_outcomes
from forked import Forked


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict:
    """All cases in one process of limited memory."""
    folder = tmp_path_factory.mktemp("bad")
    process = Forked(partial(write_outcomes, folder), folder / "said.txt")
    assert process.wait(300) == 0, process.text()[-3000:]
    return json.loads((folder / "outcomes.json").read_text())


def test_there_are_enough():
    assert len(CASES) >= 60


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_named_or_survived(outcomes, case):
    found, words = outcomes[case], CASES[case][1]
    assert "traceback" not in found, found["traceback"]
    if words.startswith("*"):
        assert found["sentences"] == []
        assert words[1:] in " ".join(found["warnings"])
        assert found["loaded"] >= 3
    else:
        assert words in found["sentences"][0]
        assert "\n" not in found["sentences"][0].replace("a\nb.jpg", "")


@pytest.mark.parametrize("case", CASES)
def test_scored_splits_are_refused_or_scored(outcomes, case):
    """What the checks of a validation let pass ends in numbers; what is left out of them is counted."""
    found = outcomes[case].get("scored", {"refused": outcomes[case]["sentences"]})
    assert found.get("refused") or 0 <= found["coco/bbox_mAP"] <= 1
    if case in LEFT_OUT:
        reported = " ".join(outcomes[case]["reported"])
        assert LEFT_OUT[case] in reported
        assert ("Scoring leaves out" in reported) is LEFT_OUT[case].startswith("Scoring leaves out")


LEFT_OUT = {
    "box without area": "Scoring leaves out 1 of the 8 annotations",
    "box outside": "Scoring leaves out 1 of the 8 annotations",
    "unknown category": "Scoring leaves out 1 of the 8 annotations",
    "unknown image": "Scoring leaves out 1 of the 8 annotations",
    "ignored": "count neither as found nor as missed: 1 are marked with ignore",
    "polygon of two points": "Scoring of masks leaves out 1 of the 8 annotations",
}
