"""Statistics and images of datasets."""

import cv2
import numpy as np
import pytest
from coco_folder import NAMES, annotations, write_coco, write_config
from pages import check_page

from localvit_det.analysis.data import augmented_section, data_sections, read_splits
from localvit_det.analysis.page import Picture, Table, render
from localvit_det.config import load_config
from localvit_det.errors import DataError


@pytest.fixture
def cfg(tmp_path):
    val = annotations(count=6)
    val["annotations"] = val["annotations"][:3]
    val["annotations"][1]["iscrowd"] = 1
    val["annotations"][1]["segmentation"] = {"size": [80, 100], "counts": [0, 800, 7200]}
    val["images"][5].update(width=50, height=40)
    write_coco(tmp_path, val=val)
    return load_config(write_config(tmp_path), {"data_root": str(tmp_path), "classes": "auto"})


def tables(sections) -> dict[str, Table]:
    return {part.name: part for section in sections for part in section.parts if isinstance(part, Table)}


def test_statistics(cfg):
    splits = read_splits(cfg, ("train", "val"))
    assert [split.name for split in splits] == ["train", "val"]
    found = tables(data_sections(splits, count=0))
    rows = {row[0]: row[1:] for row in found["splits"].rows}
    #                images, empty, objects, each, crowds, small, medium, large, size
    assert rows["train"] == [4, 0, 8, 2.0, 0, 1.0, 0.0, 0.0, "100 x 80"]
    assert rows["val"] == [6, 4, 2, 2 / 6, 1, 1.0, 0.0, 0.0, "100 x 80 and 1 other sizes"]
    counts = {row[0]: row[1:] for row in found["class_counts"].rows}
    assert list(counts) == list(NAMES)
    assert sum(row[0] for row in counts.values()) == 8
    assert sum(row[2] for row in counts.values()) == 2
    assert sum(row[1] for row in counts.values()) == pytest.approx(1)


def test_page_names_shared_files_and_absent_classes(cfg):
    text = check_page(render("data", data_sections(read_splits(cfg), count=2))).text
    assert "4 images have the same file name in train and val" in text
    absent = text.partition("Classes without any object: ")[2]
    assert absent.startswith(tuple(f"{name} (val)" for name in NAMES))


def test_pictures_show_objects_and_broken_images_are_counted(cfg, tmp_path):
    next((tmp_path / "train2017").glob("*.jpg")).write_bytes(b"no image")
    (_, _, _, train, _) = data_sections(read_splits(cfg), count=9)
    pictures = [part for part in train.parts if isinstance(part, Picture)]
    assert len(pictures) == 3
    assert "1 more cannot be read" in train.parts[0]
    assert set(pictures[0].tags) <= set(NAMES)
    gray = cv2.resize(np.full((80, 100, 3), 114, np.uint8), pictures[0].image.shape[1::-1])
    assert np.abs(pictures[0].image.astype(int) - gray).max() > 100


def test_pictures_are_drawn_with_the_range_that_training_reads(cfg, tmp_path):
    """12 bits in 16-bit PNG: without the range they are all but black."""
    for file in (tmp_path / "train2017").glob("*.jpg"):
        file.write_bytes(cv2.imencode(".png", np.full((80, 100), 2000, np.uint16))[1].tobytes())
    cfg.pixel_range = 4000
    (_, _, _, train, _) = data_sections(read_splits(cfg), count=1)
    (picture,) = (part for part in train.parts if isinstance(part, Picture))
    assert np.median(picture.image) == 128


def test_choice_is_seeded(cfg):
    def names(seed: int) -> list[str]:
        sections = data_sections(read_splits(cfg, ("val",)), count=3, seed=seed)
        return [part.name for part in sections[-1].parts if isinstance(part, Picture)]

    assert names(1) == names(1)
    assert len({tuple(names(seed)) for seed in range(4)}) > 1


def test_classes_of_the_config_only(cfg):
    for split in ("train", "val"):
        cfg[f"{split}_dataloader"].dataset["metainfo"] = {"classes": NAMES[:1]}
    found = tables(data_sections(read_splits(cfg), count=0))
    assert [row[0] for row in found["class_counts"].rows] == [NAMES[0]]


def test_no_annotation_file(cfg):
    for split in ("train", "val", "test"):
        cfg[f"{split}_dataloader"] = None
    with pytest.raises(DataError, match="names no annotation file"):
        read_splits(cfg)


def test_augmented_images_leave_out_broken_ones(cfg, tmp_path):
    next((tmp_path / "train2017").glob("*.jpg")).write_bytes(b"no image")
    section = augmented_section(cfg, count=4)
    assert len([part for part in section.parts if isinstance(part, Picture)]) == 4
