"""Normalized copies of annotation files, without what MMDetection would stumble over; the files stay as they are."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ..errors import DataError, OutputError
from ..files import CACHE, cache_folder, write_text
from .annotations import COPY_OF, read_annotations, summarize, write_annotations
from .json_stream import Content
from .layouts import change_of
from .summary import Annotations

_VERSION = 2  # raise it with every change of what copies are like


def is_copy(path: str) -> bool:
    """Whether a path is that of a copy, made here or on another machine."""
    return re.search(r"[\\/]sets[\\/][0-9a-f]{16}[\\/][^\\/]+$", path) is not None


def file_names(path: Path, content: Content | None = None) -> list[str]:
    """Return the file names of all images that a file lists.

    Args:
        content: Gets what the file holds, if it has to be parsed.

    Raises:
        DataError: It is not in COCO's format.
    """
    return [name for name, _, _ in summarize(path, content).images.values()]


def held_out(names: Collection[str], share: float) -> set[str]:
    """Return the images that are kept for validation: the same ones for the same names, whatever their order.

    Adding images moves few of the others.
    """
    ranked = sorted(set(names), key=lambda name: hashlib.sha256(name.replace("\\", "/").encode()).digest())
    return set(ranked[: min(max(1, round(share * len(ranked))), len(ranked))])


def normalized(
    path: Path,
    renames: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
    order: Sequence[str] = (),
    crowds_as_objects: bool = False,
    content: Content | None = None,
) -> tuple[Path, list[str]]:
    """Write a copy of an annotation file, if anything has to change.

    An empty first category, which Roboflow puts above all others, is left out; annotations get the `iscrowd` and `area`
    that they lack, and are numbered anew where an id stands twice.

    Args:
        renames: New file names by old ones.
        only: Names of the images to keep; all by default.
        order: Names that come first among the categories, in this order: it decides on the labels. Where the file has
            some of them and no others, the rest is added.
        crowds_as_objects: Set `iscrowd` to 0 everywhere.
        content: Of the file, where it has been parsed.

    Returns:
        The copy, or `path` where it is good as it is; and what was changed, in words.

    Raises:
        DataError: The file is not in COCO's format.
        OutputError: The copy cannot be written.
    """
    path = path.absolute()
    stat = path.stat()
    kept = sorted(only) if only is not None else None
    asked = [
        _VERSION,
        str(path),
        stat.st_mtime_ns,
        stat.st_size,
        dict(renames or {}),
        kept,
        list(order),
        crowds_as_objects,
    ]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    copy = cache_folder() / "sets" / key / f"{path.parent.name}-{path.name}".lstrip("-_")
    known = copy.parent / "changes.json"  # written last, so that the copy is whole
    if known.is_file() and copy.is_file():
        return copy, json.loads(known.read_bytes())
    if not renames and only is None and is_normalized(summarize(path), order, crowds_as_objects):
        return path, []
    values = _values(path, content or Content())
    changes = []
    try:
        if only is not None:
            changes += _keep(values, set(only))
        if renames:
            changes += _rename(values, renames)
        changes += _without_empty_parent(values)
        values["categories"], reordered = _in_order(values["categories"], order)
    except (KeyError, TypeError) as error:  # ids and names of any type
        raise _malformed(path, "ids and names have to be numbers and texts") from error
    changes += reordered + _complete(values) + _with_own_ids(values)
    if crowds_as_objects:
        changes += _without_crowds(values)
    if not changes:
        return path, []
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_annotations(copy, {COPY_OF: str(path), **values})
        write_text(known, json.dumps(changes))
    except OSError as error:
        raise OutputError(
            f"The normalized copy of {path} cannot be written to {copy.parent} ({error.strerror}): set the "
            f"variable {CACHE} to a folder that can be written."
        ) from error
    return copy, changes


def is_normalized(found: Annotations, order: Sequence[str] = (), crowds_as_objects: bool = False) -> bool:
    """Whether `normalized` would change nothing, as far as the summary of a file says; the arguments are the same."""
    if found.without_iscrowd or found.without_area or (crowds_as_objects and found.crowds):
        return False
    if found.mistake or found.empty_parent:
        return False
    return not _in_order([{"name": name} for name in found.categories], order)[1]


def _values(path: Path, content: Content) -> dict:
    try:
        values = content.copied(path)
        sections = [values["images"], values["categories"], values.setdefault("annotations", [])]
        if all(isinstance(part, list) and all(isinstance(item, dict) for item in part) for part in sections):
            return values
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
        pass  # as where the sections are something else
    raise _malformed(path, "images or others are no list of objects")


def _malformed(path: Path, reason: str) -> DataError:
    """Return the error of `read_annotations`, which says what is wrong and where, or else one with a reason."""
    try:
        read_annotations(path)
    except DataError as error:
        return error
    return DataError(f"The annotation file {path} is not in COCO format: {reason}.")


def _keep(content: dict, names: set[str]) -> list[str]:
    content["images"] = [image for image in content["images"] if image.get("file_name") in names]
    ids = {image.get("id") for image in content["images"]}
    content["annotations"] = [one for one in content["annotations"] if one.get("image_id") in ids]
    return ["a part of the file"]


def _rename(content: dict, renames: Mapping[str, str]) -> list[str]:
    count, kinds = 0, Counter[str]()
    for image in content["images"]:
        name = image["file_name"]
        image["file_name"] = renames.get(name, name)
        if image["file_name"] != name:
            count += 1
            kinds[change_of(name, image["file_name"])] += 1
    parts = [f"{number} of them in {kind}" for kind, number in kinds.items() if kind]
    return [", ".join([f"{count} file names corrected", *parts])] if count else []


def _without_empty_parent(content: dict) -> list[str]:
    categories, used = content["categories"], {one.get("category_id") for one in content["annotations"]}
    if len(categories) < 2 or categories[0].get("id") in used:
        return []
    first, *others = categories
    if not all(category.get("supercategory") == first.get("name") for category in others):
        return []
    content["categories"] = others
    return [f"without the empty first category '{first.get('name')}'"]


def _in_order(categories: list[dict], order: Sequence[str]) -> tuple[list[dict], list[str]]:
    names = [category.get("name") for category in categories]
    missing = [name for name in order if name not in names] if set(names) <= set(order) else []
    free = 1 + max((one["id"] for one in categories if isinstance(one.get("id"), int)), default=0)
    categories = categories + [{"id": free + index, "name": name} for index, name in enumerate(missing)]
    rank = {name: index for index, name in enumerate(order)}
    ordered = sorted(categories, key=lambda category: rank.get(category.get("name", ""), len(rank)))
    changes = [f"with the empty category '{name}'" for name in missing]
    if [one.get("name") for one in ordered] != [one.get("name") for one in categories]:
        changes.append("categories in the order of the classes")
    return ordered, changes


def _without_crowds(content: dict) -> list[str]:
    crowds = [one for one in content["annotations"] if one.get("iscrowd") == 1]
    for annotation in crowds:
        annotation["iscrowd"] = 0
    return [f"{len(crowds)} crowds taken as objects"] if crowds else []


def _complete(content: dict) -> list[str]:
    crowds = areas = 0
    for annotation in content["annotations"]:
        if "iscrowd" not in annotation:
            annotation["iscrowd"] = 0
            crowds += 1
        if "area" not in annotation:
            try:
                annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
            except (KeyError, TypeError, IndexError):
                continue  # read_annotations says what is wrong with it
            areas += 1
    added = ((crowds, "iscrowd of 0 added to"), (areas, "area of the box added to"))
    return [f"{what} {count} annotations" for count, what in added if count]


def _with_own_ids(content: dict) -> list[str]:
    annotations = content["annotations"]
    try:
        twice = len(annotations) - len({annotation["id"] for annotation in annotations})
    except (KeyError, TypeError):  # read_annotations says what is wrong with it
        return []
    for number, annotation in enumerate(annotations if twice else (), 1):
        annotation["id"] = number
    return [f"annotations numbered anew, since {twice} had the id of another one"] if twice else []
