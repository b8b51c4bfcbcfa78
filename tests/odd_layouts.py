"""A set of synthetic shapes, laid out as one or the other tool does it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

CLASSES = ("red circle", "blue square", "a triangle")  # with spaces


def read(source: Path, split: str) -> tuple[dict, Path]:
    """COCO's content of a split with the names above, and the folder of its images."""
    content = json.loads((source / f"annotations/instances_{split}2017.json").read_text())
    content["info"] = {"description": "mine"}
    for category, name in zip(content["categories"], CLASSES, strict=True):
        category["name"] = name
    return content, source / f"{split}2017"


def write(file: Path, content: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def roboflow(source: Path, root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid"), ("val", "test")):
        content, images = read(source, split)
        for category in content["categories"]:
            category["supercategory"] = CLASSES[0]  # a project with the name of one of its classes
        content["categories"].insert(0, {"id": 0, "name": CLASSES[0], "supercategory": "none"})
        shutil.copytree(images, root / folder)
        write(root / folder / "_annotations.coco.json", content)


def cvat(source: Path, root: Path) -> None:
    content, images = read(source, "train")
    shutil.copytree(images, root / "images/default")
    write(root / "annotations/instances_default.json", content)


def label_studio(source: Path, root: Path) -> None:
    content, images = read(source, "train")
    shutil.copytree(images, root / "images")
    for number, image in enumerate(content["images"]):
        image["file_name"] = ("images\\{}", "../../images/{}", "/data/local-files/?d=x/{}")[number % 3].format(
            image["file_name"]
        )
    for category in content["categories"]:
        category["id"] -= 1
    for annotation in content["annotations"]:
        annotation["category_id"] -= 1
    write(root / "result.json", content)


def named_files(source: Path, root: Path) -> None:
    """train.json and val.json, which has its categories in another order."""
    for split in ("train", "val"):
        content, images = read(source, split)
        if split == "val":
            content["categories"].reverse()
        shutil.copytree(images, root / "images", dirs_exist_ok=True)
        write(root / f"{split}.json", content)


def subfolders(source: Path, root: Path) -> None:
    """Images in folders that the files do not name, and files in one of their own."""
    for split, name in (("train", "my training"), ("val", "my validation")):
        content, images = read(source, split)
        for number, image in enumerate(sorted(images.iterdir())):
            place = root / f"photos/day {number % 2}/{name}" / image.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, place)
        write(root / f"labels/{name}.json", content)


def boxes(source: Path, root: Path) -> None:
    """Boxes alone, without area and iscrowd, next to their images."""
    content, images = read(source, "train")
    shutil.copytree(images, root, dirs_exist_ok=True)
    for annotation in content["annotations"]:
        for key in ("segmentation", "area", "iscrowd"):
            del annotation[key]
    write(root / "train.json", content)


LAYOUTS: dict[str, tuple[Callable[[Path, Path], None], str, tuple[str, ...]]] = {
    "roboflow": (roboflow, "Roboflow's layout", ()),
    "cvat": (cvat, "CVAT's layout", ("val_split=0.25",)),
    "label_studio": (label_studio, "Label Studio's layout", ("val_split=0.25",)),
    "named_files": (named_files, "files in COCO's format", ()),
    "subfolders": (subfolders, "files in COCO's format", ()),
    "boxes": (boxes, "files in COCO's format", ("val_split=0.25", "with_mask=False")),
}
