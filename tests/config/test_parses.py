"""How often annotation files are parsed where a start has to make copies of them: counted, as it takes seconds."""

import json
import shutil
from collections import Counter
from pathlib import Path

from conftest import REPOSITORY
from file_counts import parsed_files

from localvit_det.config import load_config
from localvit_det.datasets import annotations
from localvit_det.datasets.synthetic_shapes import make_shapes

CONFIG = REPOSITORY / "configs/mask_rcnn_shuffle_nano_shapes.py"


def cvat_folder(root: Path) -> Path:
    """CVAT's layout of a set whose files are large enough to be remembered and lack what pycocotools needs."""
    shapes, folder = make_shapes(root / "shapes", num_train=2, num_val=2, size=64), root / "cvat"
    for split in ("train", "val"):
        content = json.loads((shapes / f"annotations/instances_{split}2017.json").read_text())
        for one in content["annotations"]:
            del one["iscrowd"]
        file = folder / f"annotations/instances_{split.title()}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({**content, "info": {"padding": "x" * 1_100_000}}))
        shutil.copytree(shapes / f"{split}2017", folder / "images", dirs_exist_ok=True)
    return folder


def test_copies_are_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCALVIT_CACHE", str(tmp_path / "cache"))
    root = cvat_folder(tmp_path)
    parsed = parsed_files(monkeypatch)
    for most in (1, 0):  # one parse for the check, the copy and its check; then all is known
        parsed.clear()
        annotations.forget_annotations()
        load_config(CONFIG, {"data_root": str(root)})
        assert (set(Counter(parsed).values()) or {0}) == {most}, parsed


def test_a_file_that_is_split_is_parsed_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCALVIT_CACHE", str(tmp_path / "cache"))
    root = cvat_folder(tmp_path)
    (root / "annotations/instances_Val.json").unlink()
    parsed = parsed_files(monkeypatch)
    cfg = load_config(CONFIG, {"data_root": str(root), "val_split": 0.5})
    assert parsed == ["instances_Train.json"]
    held = [annotations.read_annotations(cfg[f"{split}_dataloader"].dataset.ann_file) for split in ("train", "val")]
    assert [len(one.images) for one in held] == [1, 1]


def test_good_files_of_other_layouts_are_parsed_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCALVIT_CACHE", str(tmp_path / "cache"))
    root = cvat_folder(tmp_path)
    for file in root.rglob("*.json"):
        content = json.loads(file.read_text())
        content["annotations"] = [{**one, "iscrowd": 0} for one in content["annotations"]]
        file.write_text(json.dumps(content))
    parsed = parsed_files(monkeypatch)
    for expected in (["instances_Train.json", "instances_Val.json"], []):
        parsed.clear()
        annotations.forget_annotations()
        load_config(CONFIG, {"data_root": str(root)})
        assert sorted(parsed) == expected
    assert not (tmp_path / "cache/sets").exists()
