"""Makes a small COCO-format instance-segmentation set of drawn shapes.

    python -m localvit_det.datasets.shapes data/shapes --seed 1
    python -m localvit_det.datasets.shapes data/stars --classes circle square triangle star --palette dusk

Same settings, same set: annotations are byte-identical, pixels too (with the same OpenCV).
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from shapely.geometry import MultiPolygon

from ..errors import DataError, UserError
from ..files import atomic_folder, write_text
from .drawing import CLASSES, OUTLINES, PALETTES, VisibleObject, draw_image

_VERSION = 1  # raise it with every change of the drawing: old sets are then told from new ones
_EMPTY_EVERY = 16  # one image in so many has no objects


def annotation_file(root: str | Path, split: str) -> Path:
    """Where the set keeps the annotations of 'train' or 'val'."""
    return Path(root) / "annotations" / f"instances_{split}2017.json"


def make_shapes(
    root: str | Path,
    *,
    num_train: int = 400,
    num_val: int = 100,
    size: int = 160,
    classes: Sequence[str] = CLASSES,
    palette: str = "bright",
    seed: int = 0,
) -> Path:
    """Makes the set under `root`, or leaves it alone where it already is there with the same settings.

    The set is written beside `root` and moved in one step: an interrupted run leaves nothing behind
    and any number of processes may ask for the same set at once.

    Args:
        size: Side of the square images in pixels. COCO's "large" objects need 110 or more.
        classes: Some of 'circle', 'square', 'triangle', 'star'; category ids are 1, 2, … in this order.
        palette: 'bright' or 'dusk', the colours of the classes.
        seed: An image depends on the seed, its split and its number only, not on the number of images.

    Raises:
        DataError: A setting makes no sense, `root` cannot be written, or it holds something else.
    """
    root = Path(root)
    settings = {
        "version": _VERSION,
        "num_train": num_train,
        "num_val": num_val,
        "size": size,
        "classes": list(classes),
        "palette": palette,
        "seed": seed,
    }
    _check(settings)
    if _already_there(root, settings):
        return root

    try:
        with atomic_folder(root) as draft:
            _write_split(draft, "train", settings, first_id=1)
            _write_split(draft, "val", settings, first_id=num_train + 1)
    except OSError as error:  # also where another process was faster
        if not _already_there(root, settings):
            raise DataError(
                f"The shapes set cannot be written to {root} ({error}): name a folder that can be written."
            ) from error
    return root


def _check(settings: dict) -> None:
    classes = settings["classes"]
    unknown = [name for name in classes if name not in OUTLINES]
    if not classes or unknown or len(set(classes)) < len(classes):
        raise DataError(f"Shape classes must be different names among {', '.join(OUTLINES)}, not {classes}.")
    if settings["palette"] not in PALETTES:
        raise DataError(f"The palette must be one of {', '.join(PALETTES)}, not {settings['palette']!r}.")
    if settings["size"] < 32 or min(settings["num_train"], settings["num_val"]) < 1 or settings["seed"] < 0:
        raise DataError(
            "A shapes set needs at least one train and one val image of 32 pixels or more and a seed "
            "from 0 on: change num_train, num_val, size or seed."
        )


def _already_there(root: Path, settings: dict) -> bool:
    """Whether `root` holds this set; anything else in it is an error, never overwritten."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads(annotation_file(root, "val").read_text())["info"]["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(
            f"{root} holds something else than a set of drawn shapes, and nothing is drawn over it: name another "
            "folder for the shapes; to train on what is there, see docs/datasets.md."
        ) from None
    other = [f"{key} {found.get(key)} instead of {value}" for key, value in settings.items() if found.get(key) != value]
    if other:
        raise DataError(f"{root} holds a shapes set with {', '.join(other)}: name another folder.")
    return True


def _write_split(root: Path, split: str, settings: dict, first_id: int) -> None:
    folder = root / f"{split}2017"
    folder.mkdir()
    images: list[dict] = []
    annotations: list[dict] = []
    for index in range(settings[f"num_{split}"]):
        image_id = first_id + index
        rng = np.random.default_rng([settings["seed"], ("train", "val").index(split), index])
        image, objects = draw_image(
            rng,
            settings["size"],
            settings["classes"],
            settings["palette"],
            empty=index % _EMPTY_EVERY == _EMPTY_EVERY // 2 - 1,
        )
        height, width = image.shape[:2]
        name = f"{image_id:012d}.jpg"
        # Encoded here, written by Python: a full disk raises OSError, where cv2.imwrite returns False.
        (folder / name).write_bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        annotations += [
            {"id": len(annotations) + number, "image_id": image_id, **_annotation(item)}
            for number, item in enumerate(objects, start=1)
        ]

    categories = [{"id": label, "name": name} for label, name in enumerate(settings["classes"], start=1)]
    path = annotation_file(root, split)
    content = {
        "info": {"description": "Drawn shapes", "settings": settings},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    write_text(path, json.dumps(content))


def _annotation(item: VisibleObject) -> dict:
    left, top, right, bottom = MultiPolygon(item.parts).bounds
    return {
        "category_id": item.label + 1,
        # The last point of shapely's ring is the first again; COCO leaves it out.
        "segmentation": [np.round(part.exterior.coords[:-1], 2).ravel().tolist() for part in item.parts],
        "area": round(sum(part.area for part in item.parts), 2),
        "bbox": [round(value, 2) for value in (left, top, right - left, bottom - top)],
        "iscrowd": 0,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; a mistake ends in its sentence and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m localvit_det.datasets.shapes", description=__doc__.split("\n")[0])
    parser.add_argument("root", type=Path, help="folder to make, e.g. data/shapes")
    parser.add_argument("--num-train", type=int, default=400, help="training images (default: %(default)s)")
    parser.add_argument("--num-val", type=int, default=100, help="validation images (default: %(default)s)")
    parser.add_argument("--size", type=int, default=160, help="side of an image in pixels (default: %(default)s)")
    parser.add_argument("--classes", nargs="+", default=CLASSES, metavar="NAME", help=f"among {', '.join(OUTLINES)}")
    parser.add_argument("--palette", default="bright", help=f"one of {', '.join(PALETTES)} (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    try:
        root = make_shapes(**vars(parser.parse_args(arguments)))
    except UserError as error:
        sys.exit(str(error))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger(__name__).info("The shapes set is in %s", root)


if __name__ == "__main__":
    main()
