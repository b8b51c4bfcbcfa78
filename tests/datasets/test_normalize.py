"""Copies of files whose ids and names are of any type end in the sentence of the reader."""

import json

import pytest
from coco_folder import annotations

from localvit_det.datasets.annotations import read_annotations
from localvit_det.datasets.normalize import normalized
from localvit_det.errors import DataError

PLACES = {"images": ("id", "file_name"), "categories": ("id", "name"), "annotations": ("image_id", "category_id")}


@pytest.mark.parametrize("value", [[1], {}])
@pytest.mark.parametrize(("section", "key"), [(section, key) for section, keys in PLACES.items() for key in keys])
def test_ids_and_names_of_any_type(section, key, value, tmp_path):
    content = annotations()
    content[section][0][key] = value
    (tmp_path / "a.json").write_text(json.dumps(content))
    for options in ({}, {"order": ("zebra", "cat")}, {"only": ["001.jpg"]}, {"renames": {"001.jpg": "1.jpg"}}):
        with pytest.raises(DataError) as caught:
            read_annotations(normalized(tmp_path / "a.json", **options)[0])
        assert "\n" not in str(caught.value)
