"""Synthetic shapes: a small COCO-format dataset for instance segmentation, drawn with exact visible outlines.

Same settings, same dataset: annotations are bitwise identical, pixels too (with the same OpenCV).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from shapely.geometry import MultiPolygon, Polygon, box
from shapely.ops import unary_union

from ..errors import DataError
from ..files import atomic_folder, write_text

RGB = tuple[int, int, int]

CLASSES = ("circle", "square", "triangle")  # by default; a star is on offer as well
PALETTES: dict[str, dict[str, RGB]] = {
    "bright": {
        "circle": (214, 69, 65),
        "square": (52, 120, 206),
        "triangle": (238, 183, 44),
        "star": (60, 165, 92),
    },
    "dusk": {
        "circle": (96, 178, 172),
        "square": (219, 126, 74),
        "triangle": (132, 84, 168),
        "star": (222, 208, 120),
    },
}
BACKGROUND = "background"  # what is behind them, in label maps
BACKGROUND_COLOR: RGB = (120, 120, 120)

_MAX_OBJECTS = 6
_SCALES = (0.08, 0.78)  # side of the square of equal area, as a share of the image's side
_MIN_SIDE = 8.0  # pixels: below that the classes look alike
_MIN_VISIBLE = 0.3  # share of an outline that must be seen
_MIN_PART = 2.0  # square pixels: slivers below that rasterise to nothing
_SUPERSAMPLING = 4
_VERSION = 1  # raise it with every change of the drawing, which tells old datasets from new ones
_DESCRIPTION = "Drawn shapes"  # in the files, by which they are recognized
_EMPTY_EVERY = 16  # one image in so many has no objects


class VisibleObject(NamedTuple):
    """What can be seen of one object: its class index and its polygons without holes."""

    label: int
    parts: list[Polygon]


def _outline(corners: int, inner_radius: float = 1.0) -> np.ndarray:
    """Return the corners of a regular polygon (or a star, if the inner radius is below 1) of area 1, (N, 2)."""
    points = corners if inner_radius == 1 else 2 * corners
    angles = 2 * np.pi * np.arange(points) / points
    radii = np.where(np.arange(points) % 2, inner_radius, 1.0)
    ring = np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)
    return ring / np.sqrt(Polygon(ring).area)


OUTLINES = {
    "circle": _outline(48),
    "square": _outline(4),
    "triangle": _outline(3),
    "star": _outline(5, inner_radius=0.45),
}


def annotation_file(root: str | Path, split: str) -> Path:
    """Return where the dataset keeps the annotations of 'train' or 'val'."""
    return Path(root) / "annotations" / f"instances_{split}2017.json"


def is_synthetic(ann_file: str | Path) -> bool:
    """Whether an annotation file is one of synthetic shapes."""
    with open(ann_file, "rb") as stream:
        return f'"{_DESCRIPTION}"'.encode() in stream.read(200)


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
    """Make the dataset under `root`, or leave it alone where it already is there with the same settings.

    It is written next to `root` and moved in one step: an interrupted run leaves nothing behind, and any number of
    processes may ask for the same dataset at once.

    Args:
        size: Side of the square images in pixels. COCO's "large" objects need 110 or more.
        classes: Some of 'circle', 'square', 'triangle', 'star'; category ids are 1, 2, … in this order.
        palette: 'bright' or 'dusk', the colors of the classes.
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
                f"The synthetic shapes cannot be written to {root} ({error}): name a folder that can be written."
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
            "Synthetic shapes need at least one train and one val image of 32 pixels or more and a seed "
            "from 0 on: change num_train, num_val, size or seed."
        )


def _already_there(root: Path, settings: dict) -> bool:
    """Whether `root` holds this dataset; anything else in it is an error, never overwritten."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads(annotation_file(root, "val").read_text())["info"]["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(
            f"{root} holds something else than synthetic shapes, and nothing is drawn over it: name another "
            "folder for the shapes; to train on what is there, see docs/datasets.md."
        ) from None
    other = [f"{key} {found.get(key)} instead of {value}" for key, value in settings.items() if found.get(key) != value]
    if other:
        raise DataError(f"{root} holds synthetic shapes with {', '.join(other)}: name another folder.")
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
        "info": {"description": _DESCRIPTION, "settings": settings},
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


def draw_image(
    rng: np.random.Generator, size: int, classes: Sequence[str], palette: str, empty: bool = False
) -> tuple[np.ndarray, list[VisibleObject]]:
    """Draw one image.

    Args:
        size: Side of the image in pixels.
        classes: Names among `OUTLINES`; their order gives the labels.
        palette: Name among `PALETTES`.
        empty: No objects, only background.

    Returns:
        The image, uint8 BGR of shape (size, size, 3), and its objects from back to front.
    """
    image = _background(rng, size)
    objects = []
    for label, outline, visible in [] if empty else _scene(rng, size, classes):
        _paint(image, outline, PALETTES[palette][classes[label]], rng)
        objects.append(VisibleObject(label, visible))
    image += rng.normal(0, 6, image.shape).astype(np.float32)
    return image.clip(0, 255).astype(np.uint8), objects


def _scene(rng: np.random.Generator, size: int, classes: Sequence[str]) -> list[tuple[int, np.ndarray, list[Polygon]]]:
    """Place objects, and return (label, outline, visible parts) from back to front."""
    count = int(rng.integers(1, _MAX_OBJECTS + 1))
    low, high = np.log(_SCALES)
    sides = np.maximum(_MIN_SIDE, size * np.exp(rng.uniform(low, high, count)))
    # Big objects tend to lie at the back, else they would hide the small ones.
    sides = sides[np.argsort(sides * np.exp(rng.normal(0, 0.4, count)))]

    frame, hidden, scene = box(0, 0, size, size), Polygon(), []
    for side in sides:  # from front to back
        label = int(rng.integers(len(classes)))
        outline = _place(rng, OUTLINES[classes[label]] * side, size, margin=0.4 * side)
        polygon = Polygon(outline)
        parts = _without_holes(polygon.intersection(frame).difference(hidden))
        # What would be nearly hidden is not drawn either: no unlabelled remains in the image.
        if sum(part.area for part in parts) >= _MIN_VISIBLE * polygon.area:
            scene.append((label, outline, parts))
            hidden = unary_union([hidden, polygon])
    return scene[::-1]


def _place(rng: np.random.Generator, outline: np.ndarray, size: int, margin: float) -> np.ndarray:
    """Turn an outline by a random angle and move its center to a random place inside the margin."""
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return outline @ rotation.T + rng.uniform(margin, size - margin, 2)


def _without_holes(geometry: Polygon | MultiPolygon) -> list[Polygon]:
    """Cut a geometry into polygons without holes: COCO's polygons cannot have any."""
    parts = []
    for polygon in getattr(geometry, "geoms", [geometry]):
        if not isinstance(polygon, Polygon) or polygon.area < _MIN_PART:
            continue
        if not polygon.interiors:
            parts.append(polygon)
            continue
        left, bottom, right, top = polygon.bounds
        cut = polygon.interiors[0].centroid.x
        for half in (box(left, bottom, cut, top), box(cut, bottom, right, top)):
            parts.extend(_without_holes(polygon.intersection(half)))
    return parts


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw soft grayish clouds, float32 (size, size, 3)."""
    brightness = rng.uniform(70, 190)
    clouds = rng.normal(brightness, 14, (5, 5, 1)) + rng.normal(0, 7, (5, 5, 3))
    return cv2.resize(clouds.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)


def _paint(image: np.ndarray, outline: np.ndarray, color: RGB, rng: np.random.Generator) -> None:
    """Paint one outline over the image, with soft edges, a varied color and a light from one side."""
    size = image.shape[0]
    fine = np.zeros((size * _SUPERSAMPLING, size * _SUPERSAMPLING), np.uint8)
    # Pixel i covers [i, i + 1) in the annotations, but OpenCV means its centre by i. Shift 4: 1/16 pixel.
    points = ((outline * _SUPERSAMPLING - 0.5) * 16).round().astype(np.int32)
    cv2.fillPoly(fine, [points], 255, shift=4)
    cover = cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA)[..., None] / np.float32(255)

    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    light = 1 + rng.uniform(-0.2, 0.2) * ramp[None, :, None] + rng.uniform(-0.2, 0.2) * ramp[:, None, None]
    bgr = np.array(color[::-1], np.float32) + rng.normal(0, 16, 3).astype(np.float32)
    image += cover * (bgr * light.astype(np.float32) - image)
