"""A dataset: statistics of its splits, next to each other, and images with their objects drawn."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.registry import DATASETS
from mmengine.config import Config
from pycocotools.coco import COCO

from ..config.utils import dataset_paths, find_datasets, prepare_dataset
from ..datasets.annotations import read_annotations
from ..datasets.images import PixelRange, pixel_range_of
from ..datasets.json_stream import read_content
from ..datasets.load_image import protect_loading
from ..engine.data_loader import seed_generators
from ..errors import DataError, shortened
from ..evaluation.coco import prints_logged
from ..preflight.classes import dataset_classes
from ..visualization import Objects, draw_readable
from . import charts
from .coco import Object, objects_of, read_image
from .page import LARGEST, Cell, Chart, Part, Picture, Section, Table

_ASPECTS = np.geomspace(1 / 8, 8, 31)  # what is flatter or steeper counts as the last
_MOST = 30  # objects an image, likewise
_LISTED = 20  # absent classes


@dataclass(frozen=True)
class Split:
    """One annotation file."""

    name: str  # 'train', 'val', 'test'; of two that read the same file the first
    file: str  # its path
    coco: COCO  # its content; crowds and unused classes included
    folder: Path  # of the images
    classes: Sequence[str]  # names of those that are used, in the order of the labels
    pixel_range: PixelRange | None  # of images with more than 8 bits, as of the config's setting

    def objects(self) -> list[Object]:
        """Return all annotations of used classes that are no crowds."""
        used = {identity for identity, one in self.coco.cats.items() if one["name"] in set(self.classes)}
        return [one for one in self.coco.anns.values() if one["category_id"] in used and not one.get("iscrowd")]


def read_splits(cfg: Config, names: Sequence[str] = ("train", "val", "test")) -> list[Split]:
    """Return the splits of a config; where two read the same file, once.

    Raises:
        DataError: An annotation file is missing or broken, or the config names none.
    """
    splits: dict[str, Split] = {}
    for name, (path, dataset) in ((split, found) for split in names for found in find_datasets(cfg, split)):
        prepare_dataset(dataset, cfg.get("draw", False))
        file, folder = dataset_paths(dataset)
        if file is None or folder is None or file in splits:
            continue
        found = read_annotations(file)
        coco = COCO()
        coco.dataset = {"annotations": [], **read_content(Path(file))}
        with prints_logged():
            coco.createIndex()
        classes = dataset_classes(path, dataset) or found.categories
        # As everywhere: the names in the order of the file.
        kept = tuple(one for one in found.categories if one in set(classes))
        splits[file] = Split(name, file, coco, Path(folder), kept, pixel_range_of(cfg.get("pixel_range")))
    if not splits:
        raise DataError(
            f"The config names no annotation file in COCO's format for {', '.join(names)}: name a detector's."
        )
    return list(splits.values())


def data_sections(splits: Sequence[Split], count: int = 24, seed: int = 0) -> list[Section]:
    """Return statistics of the splits, and so many images of each, chosen at random by the seed."""
    objects = {split.name: split.objects() for split in splits}
    return [
        _overview(splits, objects),
        _classes(splits, objects),
        _shapes(splits, objects),
        *(_browser(split, count, seed) for split in splits),
    ]


def augmented_section(cfg: Config, count: int = 24, seed: int = 0) -> Section:
    """Return images of the training as the model gets them, with the objects that are left.

    The seed decides which of them are chosen, and what is drawn for each.
    """
    dataset: Any = DATASETS.build(cfg.train_dataloader.dataset)
    protect_loading(dataset, cfg)
    classes, pictures = dataset.metainfo["classes"], []
    for index in np.random.default_rng(seed).permutation(len(dataset))[:count].tolist():
        seed_generators(seed, index)
        packed = dataset[index]
        pixels = packed["inputs"].numpy().transpose(1, 2, 0)  # C×H×W to H×W×C
        found = packed["data_samples"].gt_instances
        labels = found.labels.numpy()
        names = [classes[label] for label in labels]
        masks = found.masks.to_ndarray().astype(bool) if "masks" in found else None
        objects = Objects(found.bboxes.numpy(), labels, names, masks)
        drawn = draw_readable(np.ascontiguousarray(pixels.clip(0, 255).astype(np.uint8)), objects, largest=LARGEST)
        pictures.append(Picture(f"augmented_{index}", drawn, f"image {index}", tuple(dict.fromkeys(names))))
    text = f"{len(pictures)} of {len(dataset)} images as a training gets them, drawn at random (seed {seed})."
    return Section("Augmented images of train", [text, *pictures])


def _overview(splits: Sequence[Split], objects: Mapping[str, list[Object]]) -> Section:
    rows: list[dict[str, Cell]] = []
    for split in splits:
        found, images = objects[split.name], split.coco.imgs
        sizes = Counter((image["width"], image["height"]) for image in images.values())
        (width, height), _ = sizes.most_common(1)[0] if sizes else ((0, 0), 0)
        area = [one["area"] for one in found]
        small, large = sum(a < 32**2 for a in area), sum(a >= 96**2 for a in area)
        rows.append(
            {
                "split": split.name,
                "images": len(images),
                "without objects": len(images) - len({one["image_id"] for one in found}),
                "objects": len(found),
                "objects an image": len(found) / max(len(images), 1),
                "crowds": sum(bool(one.get("iscrowd")) for one in split.coco.anns.values()),
                "small": small / max(len(area), 1),
                "medium": (len(area) - small - large) / max(len(area), 1),
                "large": large / max(len(area), 1),
                "image size": f"{width} x {height}" + f" and {len(sizes) - 1} other sizes" * (len(sizes) > 1),
            }
        )
    section = Section("Splits", [Table.of_rows("splits", rows, digits=2)])
    section.parts.append("Small, medium, large: shares of objects under 32², under 96² and of more pixels.")
    for first, second in itertools.pairwise(splits):
        names = [{os.path.basename(image["file_name"]) for image in one.coco.imgs.values()} for one in (first, second)]
        if shared := len(names[0] & names[1]):
            section.parts.append(
                f"{shared} images have the same file name in {first.name} and {second.name}: if they are the same "
                "images, what is measured on them says little about others."
            )
    return section


def _classes(splits: Sequence[Split], objects: Mapping[str, list[Object]]) -> Section:
    names = list(dict.fromkeys(name for split in splits for name in split.classes))
    counts = {}
    for split in splits:
        found = Counter(split.coco.cats[one["category_id"]]["name"] for one in objects[split.name])
        counts[split.name] = [found[name] for name in names]
    rows: list[dict[str, Cell]] = []
    absent = []
    for index, name in enumerate(names):
        row: dict[str, Cell] = {"class": name}
        for split_name, each in counts.items():
            row |= {f"{split_name}: objects": each[index], f"{split_name}: share": each[index] / max(sum(each), 1)}
        rows.append(row)
    for split_name, each in counts.items():
        absent += [f"{name} ({split_name})" for name, count in zip(names, each, strict=True) if not count]
    parts: list[Part] = [Chart("class_shares", charts.class_shares(counts, names), "The most frequent classes.")]
    if absent:
        parts.append(f"Classes without any object: {shortened(absent, _LISTED)}.")
    return Section("Classes", [*parts, Table.of_rows("class_counts", rows)])


def _shapes(splits: Sequence[Split], objects: Mapping[str, list[Object]]) -> Section:
    sizes, relative, aspects, each = {}, {}, {}, {}
    for split in splits:
        images, found = split.coco.imgs, objects[split.name]
        boxes = np.array([one["bbox"][2:] for one in found], float).reshape(-1, 2)
        boxes = boxes[(boxes > 0).all(1)]
        sizes[split.name], aspects[split.name] = np.sqrt(boxes.prod(1)), boxes[:, 0] / boxes[:, 1]
        areas = {key: max(image["width"] * image["height"], 1) for key, image in images.items()}
        inside = [one for one in found if one["image_id"] in areas]
        shares = [one["bbox"][2] * one["bbox"][3] / areas[one["image_id"]] for one in inside]
        relative[split.name] = np.sqrt(np.array(shares, float).clip(1e-6))
        counts = Counter(one["image_id"] for one in found)
        each[split.name] = np.array([*(dict.fromkeys(images, 0) | counts).values()])
    whole = np.arange(-0.5, min(max(map(max, each.values())), _MOST) + 1)
    in_images = "root of a box's share of its image's area"
    rows = [
        ("sizes", sizes, _edges(sizes), "root of a box's area, pixels", 2, "Sizes."),
        ("relative_sizes", relative, _edges(relative), in_images, 10, "Sizes in images. What is resized keeps this."),
        ("aspects", aspects, _ASPECTS, "width over height", 2, "Aspect ratios of boxes."),
        ("objects_an_image", each, whole, f"objects an image ({_MOST}: and more)", None, "Objects in an image."),
    ]
    section = Section("Sizes and shapes")
    for name, values, bins, xlabel, log, caption in rows:
        what = "images" if values is each else "objects"
        section.parts.append(Chart(name, charts.histograms(values, bins, xlabel, f"share of the {what}", log), caption))
    return section


def _edges(samples: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return edges of logarithmic bins that hold all samples."""
    values = np.concatenate([*samples.values(), [0.5, 1.0]])
    return np.geomspace(max(values.min(), 1e-3), values.max(), 31)


def _browser(split: Split, count: int, seed: int) -> Section:
    """Return images with all objects of used classes; those that cannot be read are left out."""
    ids = sorted(split.coco.imgs)
    chosen = [ids[i] for i in sorted(np.random.default_rng(seed).permutation(len(ids))[:count])]
    place = {name: label for label, name in enumerate(split.classes)}
    labels = {key: place[one["name"]] for key, one in split.coco.cats.items() if one["name"] in place}
    pictures = []
    for image_id in chosen:
        entry = split.coco.imgs[image_id]
        pixels = read_image(split.folder, entry, split.pixel_range)
        if pixels is None:
            continue
        shown = [one for one in split.coco.imgToAnns.get(image_id, ()) if one["category_id"] in labels]
        names = [split.classes[labels[one["category_id"]]] for one in shown]
        texts = [f"{name} (crowd)" if one.get("iscrowd") else name for name, one in zip(names, shown, strict=True)]
        drawn = draw_readable(pixels, objects_of(split.coco, shown, labels, texts), largest=LARGEST)
        tags = tuple(dict.fromkeys(names))
        pictures.append(Picture(f"{split.name}_{image_id}", drawn, entry["file_name"], tags))
    text = f"{len(pictures)} of {len(ids)} images, chosen at random (seed {seed})."
    if len(pictures) < len(chosen):
        text += f" {len(chosen) - len(pictures)} more cannot be read in {split.folder}."
    return Section(f"Images of {split.name}", [text, *pictures])
