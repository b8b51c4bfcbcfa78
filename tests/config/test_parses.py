"""How often annotation files are parsed where a start has to make copies of them: counted, as it takes seconds."""

import json
import shutil
from collections import Counter
from pathlib import Path

from conftest import REPOSITORY

from localvit_det.config import load_config
from localvit_det.datasets import annotations, normalize
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
    root, parsed = cvat_folder(tmp_path), Counter()
    read_parts, content_of = annotations.read_parts, normalize._content

    def counted(function):
        def read(path, *args, **settings):
            parsed[Path(path).name.removeprefix("annotations-")] += 1
            return function(path, *args, **settings)

        return read

    monkeypatch.setattr(annotations, "read_parts", counted(read_parts))
    monkeypatch.setattr(normalize, "_content", counted(content_of))
    for most in (3, 0):  # the file is checked and copied, the copy is checked; then all is known
        parsed.clear()
        annotations.forget_annotations()
        load_config(CONFIG, {"data_root": str(root)})
        assert (set(parsed.values()) or {0}) == {most}, parsed
