"""The benchmarks behind docs/scale.md: what they make, count and compare."""

import json

import cv2
import pytest

from benchmarks import loading, scale, workers


def test_sets_of_any_size(tmp_path):
    """Annotations with the sizes of their pictures, and pictures that take room once."""
    scale.write_annotations(tmp_path / "made.json", 20, 50, 4, workers.SIZES)
    content = json.loads((tmp_path / "made.json").read_text())
    assert (len(content["images"]), len(content["annotations"]), len(content["categories"])) == (20, 50, 80)
    names = [image["file_name"] for image in content["images"]]
    workers.link_pictures(tmp_path / "train2017", names)
    files = [tmp_path / "train2017" / name for name in names]
    assert len({file.stat().st_ino for file in files}) == len(workers.SIZES)
    for image, file in zip(content["images"], files, strict=True):
        assert cv2.imread(str(file)).shape[1::-1] == (image["width"], image["height"])
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for one in content["annotations"]:
        x, y, w, h = one["bbox"]
        width, height = sizes[one["image_id"]]
        assert 0 <= x <= x + w <= width
        assert 0 <= y <= y + h <= height


@pytest.mark.slow
@pytest.mark.measuring
def test_workers_are_measured(capfd):
    scale.main(
        ["workers", "--annotations", "200", "--images", "64", "--methods", "fork", "--workers", "2", "--sides", "ours"]
    )
    lines = capfd.readouterr().out.splitlines()
    main, two = (line for line in lines if line.startswith("ours"))
    assert "main process" in main
    assert "fork 2" in two
    assert "of the serialized form" in two
    dataset = workers.FirstAgain(range(1000))
    assert {dataset[index] for index in range(len(dataset))} == set(range(64))


@pytest.mark.slow
@pytest.mark.measuring
def test_loading_is_compared(coco_root, capfd, monkeypatch):
    """Where both sides load other numbers there is no result."""
    shown = loading.pictures
    monkeypatch.setattr(loading, "pictures", lambda root: shown(root)[:4])
    scale.main(["loading", "--rounds", "1", "--coco", str(coco_root)])
    assert len([line for line in capfd.readouterr().out.splitlines() if "MMDetection" in line]) == 4
    monkeypatch.setattr(loading, "same", lambda one, other: False)
    with pytest.raises(AssertionError):
        scale.main(["loading", "--rounds", "1", "--coco", str(coco_root)])
