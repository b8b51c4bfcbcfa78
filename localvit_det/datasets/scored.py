"""What of a COCO-format file is scored: the rules of pycocotools, where those of MMDetection's training loader differ.

An object that no detection can match is left out: pycocotools would count it as missed. All else is scored as
pycocotools does, also what the training loader drops, such as boxes thinner than a pixel.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .segmentations import mask_fault

NO_EXTENT = "have a box without width or height"
OUTSIDE = "lie outside their image"
NO_CATEGORY = "have a category_id that is not among the categories"
NO_IMAGE = "have an image_id that is not among the images"
MASKLESS = "have no usable mask"

Box = Sequence[float]
Item = dict[str, Any]


def unscorable(box: Box, width: float, height: float) -> str | None:
    """Return why no detection can match an object, None if one can.

    Args:
        box: [x, y, width, height].
        width: Of the image in pixels.
        height: Likewise.
    """
    x, y, w, h = box
    if w <= 0 or h <= 0:
        return NO_EXTENT
    return OUTSIDE if x + w <= 0 or y + h <= 0 or x >= width or y >= height else None


def readable_mask(mask: Any, width: float, height: float) -> dict | list | None:
    """Return a segmentation without what stops pycocotools, None if nothing is left.

    pycocotools takes a first polygon of two points for a box and raises at one of a single point; such polygons cover
    no pixel.
    """
    fault = mask_fault(mask, width, height)
    if not mask or (fault and fault[1]):
        return None
    return mask if isinstance(mask, dict) else [part for part in mask if len(part) >= 6] or None


def scored_content(
    content: Mapping[str, Any], numbers: Mapping[object, int], classes: Sequence[str], masks: bool
) -> tuple[Item, Counter]:
    """Return the part of a COCO-format file that is scored, everything numbered from 1.

    pycocotools takes a match with the id 0 for none, and sorts and compares ids as numbers. Categories are numbered in
    the order of `classes`. What is marked with `ignore` becomes a crowd, which counts
    neither as found nor as missed; MMDetection does the same with other formats.

    Args:
        content: The content of the file, which stays as it is.
        numbers: New ids of the images by those of the file; others are left out.
        classes: Names of the classes.
        masks: Leave out objects without a usable mask.

    Returns:
        The content, and the counts of annotations that are left out by their reasons.
    """
    images = {image["id"]: image for image in content["images"]}
    by_name = {category["name"]: category for category in content["categories"]}
    labels = {by_name[name]["id"]: number for number, name in enumerate(classes, 1)}
    known = {category["id"] for category in content["categories"]}
    left_out: Counter = Counter()
    annotations: list[Item] = []
    for one in content.get("annotations") or ():
        image = images.get(one["image_id"])
        if image is None or one["category_id"] not in known:
            left_out[NO_IMAGE if image is None else NO_CATEGORY] += 1
            continue
        if one["image_id"] not in numbers or one["category_id"] not in labels:
            continue
        reason = unscorable(one["bbox"], image["width"], image["height"])
        changed: Item = {"iscrowd": int(bool(one.get("iscrowd") or one.get("ignore")))}
        if masks and not reason:
            changed["segmentation"] = readable_mask(one.get("segmentation"), image["width"], image["height"])
            reason = None if changed["segmentation"] else MASKLESS
        if reason:
            left_out[reason] += 1
            continue
        ids = {"id": len(annotations) + 1, "image_id": numbers[one["image_id"]]}
        annotations.append({**one, **changed, **ids, "category_id": labels[one["category_id"]]})
    return {
        "images": [{**images[identity], "id": number} for identity, number in numbers.items()],
        "categories": [{**by_name[name], "id": number} for number, name in enumerate(classes, 1)],
        "annotations": annotations,
    }, left_out
