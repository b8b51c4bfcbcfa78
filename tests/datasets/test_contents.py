"""Copies from the one parse of a file: what they hold, and that their summary is what reading them would find."""

import json
from pathlib import Path

import coco_folder
import pytest
from file_counts import parsed_files

from localvit_det.datasets import annotations, json_stream
from localvit_det.datasets.annotations import forget_annotations, read_annotations, summarize
from localvit_det.datasets.json_stream import Content
from localvit_det.datasets.normalize import normalized
from localvit_det.errors import DataError

GOOD = [[1.50, 2, 30, 2, 30, 25.25]]
KINDS = {
    "polygons": GOOD,
    "two": [[1, 1, 9, 1, 9, 9], [10, 10, 19, 10, 19, 19.0]],
    "too short": [[1, 2, 3, 4]],
    "far": [[1, 2, 3e4, 4, 5, 6]],
    "flat": [1, 2, 3, 4, 5, 6],
    "run lengths": {"size": [48, 64], "counts": [48 * 64]},
    "none": [],
    "absent": None,
}


def content_of(extra: dict | None = None) -> dict:
    """Annotations of all kinds, without iscrowd and area, which copies get."""
    listed = []
    for number, mask in enumerate([*KINDS.values(), *KINDS.values()]):
        one = {"id": number, "image_id": number % 3, "category_id": 1, "bbox": [1, 1, 30, 30], "segmentation": mask}
        listed.append({key: value for key, value in one.items() if value is not None})
    images = [{"id": number, "file_name": f"{number}.jpg", "width": 64, "height": 48} for number in range(3)]
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    return {"info": {"x": 1}, "images": images, "categories": categories, "annotations": listed, **(extra or {})}


def known(path: Path) -> tuple:
    """What a summary says of a file; ids of one fault come in the order in which they are looked at."""

    def in_order(value: object) -> object:
        if isinstance(value, dict):
            return {key: in_order(one) for key, one in value.items()}
        return sorted(map(in_order, value), key=str) if isinstance(value, list) else value

    values, arrays = read_annotations(path).stored()
    return in_order(json.loads(json.dumps(values))), {key: array.tolist() for key, array in arrays.items()}


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"more": [{"segmentation": GOOD}]},  # polygons that are no annotation's
        {"info": {"segmentation": GOOD}},
    ],
)
@pytest.mark.parametrize("batch", [1, 3, 20_000])
def test_copies_are_as_if_all_was_parsed(tmp_path, cache, monkeypatch, extra, batch):
    monkeypatch.setattr(json_stream, "_BATCH", batch)
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content_of(extra)))
    content = Content()
    summarize(file, content)
    for names in (None, ["0.jpg", "2.jpg"], ["1.jpg"]):  # several copies of one content
        copy, _ = normalized(file, {"0.jpg": "d/0.jpg"}, names, ["b"], content=content)
        expected = content_of(extra)
        kept = [one for one in expected["images"] if names is None or one["file_name"] in names]
        found = json.loads(copy.read_text())
        assert [one["id"] for one in found["images"]] == [one["id"] for one in kept]
        expected["annotations"] = [
            {**one, "iscrowd": 0, "area": 900}
            for one in expected["annotations"]
            if one["image_id"] in {image["id"] for image in kept}
        ]
        assert found["annotations"] == expected["annotations"]
        assert {key: found[key] for key in extra} == extra
        assert [one["name"] for one in found["categories"]] == ["b", "a"]
        summary = known(copy)
        forget_annotations()
        parsed = parsed_files(monkeypatch)
        assert known(copy) == summary
        assert len(parsed) == 1  # the second time


def test_polygons_stay_the_text_that_they_are(tmp_path, cache):
    file, text = tmp_path / "a.json", "[[1.50, 2,30,2.000, 30,25.25]]"
    file.write_text(json.dumps(content_of()).replace(json.dumps(GOOD), text))
    assert text in normalized(file)[0].read_text()


def test_mistakes_are_said_where_the_copy_is_read(tmp_path, cache):
    file, content = tmp_path / "a.json", content_of()
    content["categories"].append({"id": 3, "name": "a"})  # twice, which no copy is free of
    file.write_text(json.dumps(content))
    copy, _ = normalized(file)
    for path in (file, copy):
        with pytest.raises(DataError, match=rf"{file} has the category .* twice"):
            read_annotations(path)


def test_summaries_are_of_the_file_as_it_is(tmp_path, cache):
    file = tmp_path / "a.json"
    annotations.write_annotations(file, content_of())
    assert len(read_annotations(file).images) == 3
    file.write_text(json.dumps({**content_of(), "images": content_of()["images"][:2]}))
    assert len(read_annotations(file).images) == 2


PLACES = {"images": ("id", "file_name"), "categories": ("id", "name"), "annotations": ("image_id", "category_id")}


@pytest.mark.parametrize("value", [[1], {}])
@pytest.mark.parametrize(("section", "key"), [(section, key) for section, keys in PLACES.items() for key in keys])
def test_ids_and_names_of_any_type(section, key, value, tmp_path):
    content = coco_folder.annotations()
    content[section][0][key] = value
    (tmp_path / "a.json").write_text(json.dumps(content))
    for options in ({}, {"order": ("zebra", "cat")}, {"only": ["001.jpg"]}, {"renames": {"001.jpg": "1.jpg"}}):
        with pytest.raises(DataError) as caught:
            read_annotations(normalized(tmp_path / "a.json", **options)[0])
        assert "\n" not in str(caught.value)
