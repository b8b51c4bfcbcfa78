"""A small set in YOLO's format."""

from collections.abc import Sequence
from pathlib import Path

from coco_folder import gray

NAMES = ("a cat", "dog", "traffic light")
W, H = 200, 120
OWN = ("images/train", "images/val")
YOLO = {
    # class, centre, size; a polygon; a box with a confidence
    "one": "0 0.5 0.5 0.25 0.1\n2 0.1 0.2 0.3 0.2 0.25 0.45 0.1 0.4\n",
    "two": "1 0.333333 0.71234 0.123456 0.2 0.9\n",
    "empty": "",
}


def write_yolo(root: Path, body: str, folders: Sequence[str] = OWN) -> Path:
    for folder in folders:
        labels = root / folder.replace("images", "labels")
        (root / folder).mkdir(parents=True)
        labels.mkdir(parents=True)
        for name, lines in YOLO.items():
            (root / folder / f"{name}.jpg").write_bytes(gray(W, H))
            (labels / f"{name}.txt").write_text(lines)
        (root / folder / "unlabelled.png").write_bytes(gray(W, H))
    if body:
        (root / "data.yaml").write_text(body)
    return root
