"""Which file describes a YOLO dataset."""

import pytest

from localvit_det.datasets.converters.yolo import data_yaml
from localvit_det.errors import DataError

GOOD = "names: [cat, dog]\ntrain: images/train\n"


@pytest.mark.parametrize("other", ["a: [", "\x00", "a: &b 1\nc: *b", "- 1\n- 2", "names: [cat]", "train: x", ""])
def test_other_yaml_files_are_passed_over(tmp_path, other):
    (tmp_path / "a.yaml").write_text(other)
    assert data_yaml(tmp_path) is None
    (tmp_path / "b.yml").write_text(GOOD)
    assert data_yaml(tmp_path) == tmp_path / "b.yml"
    (tmp_path / "data.yaml").write_text(GOOD)
    assert data_yaml(tmp_path) == tmp_path / "data.yaml"


@pytest.mark.parametrize(
    ("text", "words"), [("a: [", "cannot be read as YAML"), ("a: &b 1\nc: *b", r"line 2 has an alias \(\*b\)")]
)
def test_the_one_that_is_meant_must_be_good(tmp_path, text, words):
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=words):
        data_yaml(tmp_path)


def test_depth_is_limited(tmp_path):
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: x\nm: " + "[" * 19 + "]" * 19)
    assert data_yaml(tmp_path) is not None
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: x\nm: " + "[" * 20 + "]" * 20)
    with pytest.raises(DataError, match="line 3 is nested more than 20 deep"):
        data_yaml(tmp_path)
