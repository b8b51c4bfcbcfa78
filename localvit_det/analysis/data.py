"""A data set as it is: statistics of its splits beside each other, and images with their objects drawn."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmengine.config import Config
from pycocotools.coco import COCO

from ..config.utils import dataset_paths, find_datasets, prepare_dataset
from ..datasets.annotations import read_annotations
from ..datasets.images import PixelRange, pixel_range_of
from ..errors import DataError, shortened
from ..preflight.classes import dataset_classes
from . import charts
from .page import Cell, Chart, Part, Section, Table
from .pictures import browser_pictures

_ASPECTS = np.geomspace(1 / 8, 8, 31)  # what is flatter or steeper counts as the last
_MOST = 30  # objects an image, likewise
_LISTED = 20  # absent classes


@dataclass(frozen=True)
class Split:
    """One annotation file.

    Attributes:
        name: 'train', 'val', 'test'; of two that read the same file the first.
        coco: Its content; crowds and unused classes included.
        folder: Of the images.
        classes: Names of those that are used, in the order of the labels.
        pixel_range: Of images with more than 8 bits, as of the config's setting.
    """

    name: str
    coco: COCO
    folder: Path
    classes: Sequence[str]
    pixel_range: PixelRange | None

    def objects(self) -> list[dict]:
        """All annotations of used classes that are no crowds."""
        used = {identity for identity, one in self.coco.cats.items() if one["name"] in set(self.classes)}
        return [one for one in self.coco.anns.values() if one["category_id"] in used and not one.get("iscrowd")]


def read_splits(cfg: Config, names: Sequence[str] = ("train", "val", "test")) -> list[Split]:
    """The splits of a config; where two read the same file, once.

    Raises:
        DataError: An annotation file is missing or broken, or the config names none.
    """
    splits: dict[str, Split] = {}
    for name, path, dataset in _datasets(cfg, names):
        prepare_dataset(dataset, cfg.get("draw", False))
        file, folder = dataset_paths(dataset)
        if file is None or folder is None or file in splits:
            continue
        found = read_annotations(file)
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(file)
        classes = dataset_classes(path, dataset) or found.categories
        # As everywhere: the names in the order of the file.
        kept = tuple(one for one in found.categories if one in set(classes))
        splits[file] = Split(name, coco, Path(folder), kept, pixel_range_of(cfg.get("pixel_range")))
    if not splits:
        raise DataError(
            f"The config names no annotation file in COCO's format for {', '.join(names)}: name a detector's."
        )
    return list(splits.values())


def _datasets(cfg: Config, names: Sequence[str]) -> Iterator[tuple[str, str, dict]]:
    for name in names:
        for path, dataset in find_datasets(cfg, name):
            yield name, path, dataset


def data_sections(splits: Sequence[Split], count: int = 24, seed: int = 0) -> list[Section]:
    """Statistics of the splits, and images of each.

    Args:
        splits: What to look at.
        count: Images of each split, chosen at random.
        seed: Of this choice.
    """
    objects = {split.name: split.objects() for split in splits}
    return [
        _overview(splits, objects),
        _classes(splits, objects),
        _shapes(splits, objects),
        *(_browser(split, count, seed) for split in splits),
    ]


def _overview(splits: Sequence[Split], objects: Mapping[str, list[dict]]) -> Section:
    rows: list[list[Cell]] = []
    for split in splits:
        found, images = objects[split.name], split.coco.imgs.values()
        crowds = sum(bool(one.get("iscrowd")) for one in split.coco.anns.values())
        empty = len(split.coco.imgs) - len({one["image_id"] for one in found})
        sizes = Counter((image["width"], image["height"]) for image in images)
        (width, height), _ = sizes.most_common(1)[0] if sizes else ((0, 0), 0)
        area = [one["area"] for one in found]
        small, large = sum(a < 32**2 for a in area), sum(a >= 96**2 for a in area)
        shares = [part / max(len(area), 1) for part in (small, len(area) - small - large, large)]
        each = len(found) / max(len(split.coco.imgs), 1)
        rows.append([split.name, len(split.coco.imgs), empty, len(found), each, crowds, *shares])
        rows[-1].append(f"{width} x {height}" + (f" and {len(sizes) - 1} other sizes" if len(sizes) > 1 else ""))
    head = [
        "split",
        "images",
        "without objects",
        "objects",
        "objects an image",
        "crowds",
        "small",
        "medium",
        "large",
        "image size",
    ]
    section = Section("Splits", [Table("splits", head, rows, digits=2)])
    section.parts.append("Small, medium, large: shares of objects under 32², under 96² and of more pixels.")
    for first, second in itertools.pairwise(splits):
        names = [{os.path.basename(image["file_name"]) for image in one.coco.imgs.values()} for one in (first, second)]
        if shared := len(names[0] & names[1]):
            section.parts.append(
                f"{shared} images have the same file name in {first.name} and {second.name}: if they are the same "
                "images, what is measured on them says little about others."
            )
    return section


def _classes(splits: Sequence[Split], objects: Mapping[str, list[dict]]) -> Section:
    names = list(dict.fromkeys(name for split in splits for name in split.classes))
    counts = {}
    for split in splits:
        found = Counter(split.coco.cats[one["category_id"]]["name"] for one in objects[split.name])
        counts[split.name] = [found[name] for name in names]
    rows = [
        [name, *(cell for split in splits for cell in _share(counts[split.name], index))]
        for index, name in enumerate(names)
    ]
    head = ["class", *(text for split in splits for text in (f"{split.name}: objects", f"{split.name}: share"))]
    absent = [
        f"{name} ({split})"
        for split, row in counts.items()
        for name, count in zip(names, row, strict=True)
        if not count
    ]
    parts: list[Part] = [Chart("class_shares", charts.class_shares(counts, names), "The most frequent classes.")]
    if absent:
        parts.append(f"Classes without any object: {shortened(absent, _LISTED)}.")
    return Section("Classes", [*parts, Table("class_counts", head, rows)])


def _share(row: Sequence[int], index: int) -> tuple[int, float]:
    return row[index], row[index] / max(sum(row), 1)


def _shapes(splits: Sequence[Split], objects: Mapping[str, list[dict]]) -> Section:
    boxes = {
        name: np.array([one["bbox"][2:] for one in found], float).reshape(-1, 2) for name, found in objects.items()
    }
    boxes = {name: sides[(sides > 0).all(1)] for name, sides in boxes.items()}
    sides = {name: np.sqrt(found.prod(1)) for name, found in boxes.items()}
    aspects = {name: found[:, 0] / found[:, 1] for name, found in boxes.items()}
    each = {
        split.name: np.array(
            [*Counter(dict.fromkeys(split.coco.imgs, 0) | Counter(o["image_id"] for o in objects[split.name])).values()]
        )
        for split in splits
    }
    relative = {}
    for split in splits:
        images = split.coco.imgs
        shares = [
            one["bbox"][2]
            * one["bbox"][3]
            / max(images[one["image_id"]]["width"] * images[one["image_id"]]["height"], 1)
            for one in objects[split.name]
            if one["image_id"] in images
        ]
        relative[split.name] = np.sqrt(np.array(shares, float).clip(1e-6))
    of_objects = "share of the objects"
    return Section(
        "Sizes and shapes",
        [
            Chart(
                "sizes",
                charts.histograms(sides, _edges(sides), "root of a box's area, pixels", of_objects, 2),
                "Sizes.",
            ),
            Chart(
                "relative_sizes",
                charts.histograms(
                    relative, _edges(relative), "root of a box's share of its image's area", of_objects, 10
                ),
                "Sizes in images. What is resized keeps this.",
            ),
            Chart(
                "aspects",
                charts.histograms(aspects, _ASPECTS, "width over height", of_objects, 2),
                "Aspect ratios of boxes.",
            ),
            Chart(
                "objects_an_image",
                charts.histograms(
                    each, _whole_edges(each), f"objects an image ({_MOST}: and more)", "share of the images"
                ),
                "Objects in an image.",
            ),
        ],
    )


def _edges(samples: Mapping[str, np.ndarray]) -> np.ndarray:
    """Edges of logarithmic bins that hold all samples."""
    values = np.concatenate([*samples.values(), [0.5, 1.0]])
    return np.geomspace(max(values.min(), 1e-3), values.max(), 31)


def _whole_edges(samples: Mapping[str, np.ndarray]) -> np.ndarray:
    """Edges of bins with one whole number each, from 0 to the largest, or `_MOST`."""
    return np.arange(-0.5, min(max(map(max, samples.values())), _MOST) + 1)


def _browser(split: Split, count: int, seed: int) -> Section:
    ids = sorted(split.coco.imgs)
    chosen = np.random.default_rng(seed).permutation(len(ids))[:count]
    ids_chosen = [ids[i] for i in sorted(chosen)]
    pictures = browser_pictures(split.coco, split.folder, ids_chosen, split.classes, split.name, split.pixel_range)
    text = f"{len(pictures)} of {len(ids)} images, chosen at random (seed {seed})."
    if len(pictures) < len(chosen):
        text += f" {len(chosen) - len(pictures)} more cannot be read in {split.folder}."
    return Section(f"Images of {split.name}", [text, *pictures])
