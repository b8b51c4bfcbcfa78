"""Images of drawn shapes with exact visible outlines; one random generator in, one image out."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from shapely.geometry import MultiPolygon, Polygon, box
from shapely.ops import unary_union

RGB = tuple[int, int, int]

CLASSES = ("circle", "square", "triangle")  # the default set; a star is on offer as well
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
_MIN_SIDE = 8.0  # pixels: below that nobody could tell the classes apart
_MIN_VISIBLE = 0.3  # share of an outline that must be seen
_MIN_PART = 2.0  # square pixels: slivers below that rasterise to nothing
_SUPERSAMPLING = 4


class VisibleObject(NamedTuple):
    """What can be seen of one object: its class index and its polygons without holes."""

    label: int
    parts: list[Polygon]


def _outline(corners: int, inner_radius: float = 1.0) -> np.ndarray:
    """Corners of a regular polygon (or a star, if the inner radius is below 1) of area 1, (N, 2)."""
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


def draw_image(
    rng: np.random.Generator, size: int, classes: Sequence[str], palette: str, empty: bool = False
) -> tuple[np.ndarray, list[VisibleObject]]:
    """Draws one image.

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
    """Places objects; returns (label, outline, visible parts) from back to front."""
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
    """Turns an outline by a random angle and moves its centre to a random place inside the margin."""
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return outline @ rotation.T + rng.uniform(margin, size - margin, 2)


def _without_holes(geometry: Polygon | MultiPolygon) -> list[Polygon]:
    """Cuts a geometry into polygons without holes: COCO's polygons cannot have any."""
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
    """Soft greyish clouds, float32 (size, size, 3)."""
    brightness = rng.uniform(70, 190)
    clouds = rng.normal(brightness, 14, (5, 5, 1)) + rng.normal(0, 7, (5, 5, 3))
    return cv2.resize(clouds.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)


def _paint(image: np.ndarray, outline: np.ndarray, colour: RGB, rng: np.random.Generator) -> None:
    """Paints one outline over the image, with soft edges, a varied colour and a light from one side."""
    size = image.shape[0]
    fine = np.zeros((size * _SUPERSAMPLING, size * _SUPERSAMPLING), np.uint8)
    # Pixel i covers [i, i + 1) in the annotations, but OpenCV means its centre by i. Shift 4: 1/16 pixel.
    points = ((outline * _SUPERSAMPLING - 0.5) * 16).round().astype(np.int32)
    cv2.fillPoly(fine, [points], 255, shift=4)
    cover = cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA)[..., None] / np.float32(255)

    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    light = 1 + rng.uniform(-0.2, 0.2) * ramp[None, :, None] + rng.uniform(-0.2, 0.2) * ramp[:, None, None]
    bgr = np.array(colour[::-1], np.float32) + rng.normal(0, 16, 3).astype(np.float32)
    image += cover * (bgr * light.astype(np.float32) - image)
