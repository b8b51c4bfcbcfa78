"""Bad annotation files and images end in their sentence, or in a counted skip; none in a traceback or in gigabytes."""

import contextlib
import copy
import gzip
import io
import json
import logging
import resource
import shutil
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from coco_folder import NAMES, annotations, dataset_config, png_of, write_coco
from forked import Forked
from mmdet.registry import DATASETS, METRICS
from mmengine.config import Config
from mmengine.registry import init_default_scope

import localvit_det  # noqa: F401
from localvit_det import preflight
from localvit_det.datasets import load_image
from localvit_det.errors import UserError
from localvit_det.evaluation import exact_metrics
from localvit_det.preflight.data import find_problems

NAN, INF = float("nan"), float("inf")
GOOD = [60, 40, 90, 40, 90, 60]
FILTER = {"filter_empty_gt": True}
MEMORY = 2_000_000_000  # bytes that the whole table may take on top of the imports


def encoded(kind: str, width: int = 100, height: int = 80) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    return cv2.imencode(kind, noise)[1].tobytes()


def raw(content: bytes) -> Callable[[Path], None]:
    """The annotation file has other bytes."""
    return lambda root: (root / "annotations/instances_train2017.json").write_bytes(content) and None


def text(codec: str) -> Callable[[Path], None]:
    return raw(json.dumps(annotations(), ensure_ascii=False).replace("zebra", "zèbra").encode(codec))


def first(section: str, **values: object) -> Callable[[Path], None]:
    """The first entry of a section has other values; `...` takes the key away."""

    def change(root: Path) -> None:
        content = copy.deepcopy(annotations())
        for key, value in values.items():
            if value is ...:
                del content[section][0][key]
            else:
                content[section][0][key] = value
        (root / "annotations/instances_train2017.json").write_text(json.dumps(content))

    return change


def every(**values: object) -> Callable[[Path], None]:
    """All annotations have other values."""

    def change(root: Path) -> None:
        content = copy.deepcopy(annotations())
        for annotation in content["annotations"]:
            annotation.update(values)
        (root / "annotations/instances_train2017.json").write_text(json.dumps(content))

    return change


def replaced(old: str, new: str) -> Callable[[Path], None]:
    """The text of the annotation file, for what `json` would not write."""
    return raw(json.dumps(annotations()).replace(old, new, 1).encode())


def image(content: bytes) -> Callable[[Path], None]:
    """The first image file has other bytes."""
    return lambda root: (root / "train2017/001.jpg").write_bytes(content) and None


def all_images(content: bytes) -> Callable[[Path], None]:
    return lambda root: [file.write_bytes(content) for file in (root / "train2017").iterdir()] and None


def folder_for_image(root: Path) -> None:
    (root / "train2017/001.jpg").unlink()
    (root / "train2017/001.jpg").mkdir()


def polygons(*parts: object) -> Callable[[Path], None]:
    return first("annotations", segmentation=list(parts))


def rle(counts: object, size: object = (80, 100)) -> Callable[[Path], None]:
    return first("annotations", segmentation={"counts": counts, "size": list(size)})


NOT_COCO, NOT_JSON = "is not in COCO format", "is not JSON"
SKIPS, DROPS = "MMDetection will skip 1 of the 8", "MMDetection will skip polygons"
UNUSED = "001.jpg "  # a file that is named in the log and skipped

# What is wrong, how to make it, and words of the sentence; after a * those of a warning, and a training goes on.
CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    # the file
    "empty file": (raw(b" "), NOT_JSON),
    "null": (raw(b"null"), NOT_COCO),
    "list": (raw(b"[]"), NOT_COCO),
    "number": (raw(b"3"), NOT_COCO),
    "xml": (raw(b"<annotation/>"), NOT_JSON),
    "half": (raw(json.dumps(annotations()).encode()[:900]), NOT_JSON),
    "two in one": (raw(json.dumps(annotations()).encode() * 2), NOT_JSON),
    "zeros": (raw(b"\0" * 1000), "UTF-16 or UTF-32"),
    "noise": (raw(np.random.default_rng(0).bytes(1000)), "UTF-"),
    "gzip": (raw(gzip.compress(b"{}")), "not written in UTF-8"),
    "byte order mark": (text("utf-8-sig"), "byte order mark"),
    "utf-16": (text("utf-16"), "UTF-16"),
    "utf-16 without mark": (text("utf-16-le"), "UTF-16"),
    "utf-32": (text("utf-32"), "UTF-32"),
    "latin-1": (text("latin-1"), "not written in UTF-8"),
    "deep lists": (raw(b"[" * 200_000), "nested deeper"),
    "deep objects": (raw(b'{"a":' * 200_000 + b"1"), "nested deeper"),
    "deep polygon": (replaced("[[60", "[" * 100_000 + "[[60"), "nested deeper"),
    "sections are objects": (raw(b'{"images": {"a": 1}, "categories": [], "annotations": []}'), NOT_COCO),
    "images are null": (raw(b'{"images": null, "categories": [], "annotations": []}'), NOT_COCO),
    "annotations are a text": (raw(b'{"images": [], "categories": [], "annotations": "x"}'), NOT_COCO),
    "no categories": (raw(b'{"images": [], "annotations": []}'), "no 'categories'"),
    "no images": (raw(b"{}"), "no 'images'"),
    # categories
    "categories are an object": (raw(b'{"images": [], "categories": {"cat": 1}}'), "categories have id and name"),
    "category without name": (first("categories", name=...), "no 'name'"),
    "category name is a number": (first("categories", name=5), "is no text"),
    "category id twice": (first("categories", id=20), "twice"),
    "category name twice": (first("categories", name="dog"), "twice"),
    # images
    "width is NaN": (first("images", width=NAN), "image id 1 (001.jpg) with the size nan"),
    "width is infinite": (replaced('"width": 100', '"width": 1e999'), "with the size inf"),
    "width is a text": (first("images", width="100"), "with the size '100'"),
    "width is a fraction": (first("images", width=100.5), "whole numbers"),
    "height is zero": (first("images", height=0), "whole numbers"),
    "height is negative": (first("images", height=-80), "whole numbers"),
    "size beyond memory": (first("images", width=100_000, height=100_000), "over 100,000,000 pixels"),
    "size beyond integers": (first("images", width=10**30), "over 100,000,000 pixels"),
    "image id twice": (first("images", id=2), "image id 2 twice"),
    "image id is a list": (first("images", id=[1]), NOT_COCO),
    "image without width": (first("images", width=...), "where images have id, file_name, width and height"),
    "image without id": (first("images", id=...), "no 'id'"),
    "file name is a number": (first("images", file_name=7), "file_name 7"),
    "file name is empty": (first("images", file_name=""), "file_name ''"),
    "file name with a zero": (first("images", file_name="a\0b.jpg"), "absent"),
    "file name with a line break": (first("images", file_name="a\nb.jpg"), "absent"),
    "file name with half a character": (first("images", file_name="\ud800.jpg"), "absent"),
    "image under two ids": (first("images", file_name="002.jpg"), "*under several ids"),
    # boxes
    "box with NaN": (first("annotations", bbox=[NAN, 1, 2, 3]), "NaN or infinity in bbox or area (id 1)"),
    "box with infinity": (first("annotations", bbox=[0, 0, INF, 3]), "NaN or infinity in bbox or area (id 1)"),
    "box with both infinities": (first("annotations", bbox=[-INF, 0, INF, 3]), "NaN or infinity"),
    "box overflows": (replaced("[60, 40, 30, 20]", "[60, 40, 1e999, 20]"), "NaN or infinity"),
    "box of texts": (first("annotations", bbox=["60", "40", "30", "20"]), "else than numbers in bbox"),
    "box with null": (first("annotations", bbox=[None, 40, 30, 20]), "else than numbers in bbox"),
    "box of lists": (first("annotations", bbox=[[60], [40], [30], [20]]), "else than numbers in bbox"),
    "box of a huge integer": (
        first("annotations", bbox=[60, 40, 10**400, 20], area=0.5),
        "something else than numbers",
    ),
    "box of three": (first("annotations", bbox=[1, 2, 3]), "[x, y, width, height]"),
    "box of five": (first("annotations", bbox=[1, 2, 3, 4, 5]), "[x, y, width, height]"),
    "box is null": (first("annotations", bbox=None), NOT_COCO),
    "annotation without category": (first("annotations", category_id=...), "no 'category_id'"),
    "no box": (first("annotations", bbox=...), "no 'bbox'"),
    "box far away": (first("annotations", bbox=[0, 0, 1e30, 1e30]), "reach more than 10 sizes"),
    "area is NaN": (first("annotations", area=NAN), "NaN or infinity in bbox or area"),
    "area is a text": (first("annotations", area="600"), "else than numbers in bbox or area"),
    "area is null": (first("annotations", area=None), "else than numbers in bbox or area"),
    "crowd as a text": (first("annotations", iscrowd="0"), "an iscrowd other than 0 and 1 (id 1)"),
    "crowd is 2": (first("annotations", iscrowd=2), "an iscrowd other than 0 and 1 (id 1)"),
    "annotation id twice": (first("annotations", id=2), "annotation id 2 twice"),
    "annotation without id": (first("annotations", id=...), "no 'id'"),
    "annotation is a number": (raw(b'{"images": [], "categories": [], "annotations": [7]}'), NOT_COCO),
    "box without area": (first("annotations", bbox=[60, 40, 0, 20]), f"*{SKIPS}"),
    "box outside": (first("annotations", bbox=[200, 40, 30, 20]), f"*{SKIPS}"),
    "unknown category": (first("annotations", category_id=77), f"*{SKIPS}"),
    "unknown image": (first("annotations", image_id=77), f"*{SKIPS}"),
    "ignored": (first("annotations", ignore=1), f"*{SKIPS}"),
    "only crowds": (every(iscrowd=1), "mark crowds"),
    "only ignored": (every(ignore=1), "no usable annotation"),
    "fractions": (every(bbox=[0.5, 0.5, 0.2, 0.2]), "fractions of the image's size"),
    # masks
    "polygon with NaN": (polygons([*GOOD, NAN, 50]), "NaN or infinity in their polygons (id 1)"),
    "polygon with infinity": (polygons([*GOOD, INF, -INF]), "NaN or infinity in their polygons (id 1)"),
    "polygon overflows": (replaced("[[60, 40, 90", "[[1e999, 40, 90"), "NaN or infinity in their polygons"),
    "polygon with null": (polygons([*GOOD, None, 3]), "else than numbers in their polygons"),
    "polygon of points": (polygons([[60, 40], [90, 40], [90, 60]]), "else than numbers in their polygons"),
    "polygon far away": (polygons([*GOOD, 1e9, 1e9]), "polygons that reach far outside"),
    "polygon of endless length": (polygons([0, 0, 99, 79] * 40_000), "polygons that reach far outside"),
    "flat polygon": (polygons(*GOOD), "one list of numbers"),
    "mask is a text": (first("annotations", segmentation="poly"), "neither polygons nor RLE"),
    "malformed number": (replaced("[[60, 40", "[[60.0.0, 40"), NOT_JSON),
    "number with zeros before": (replaced("[[60, 40", "[[060, 40"), NOT_JSON),
    "polygon of two points": (polygons([60, 40, 90, 60]), f"*{DROPS}"),
    "polygon of an odd count": (polygons([*GOOD, 70]), f"*{DROPS}"),
    "odd part next to a good one": (polygons(GOOD, [1, 2, 3, 4, 5, 6, 7]), f"*{DROPS}"),
    "empty part": (polygons([], GOOD), f"*{DROPS}"),
    "no mask": (first("annotations", segmentation=...), "no segmentation"),
    "rle of another size": (rle([8000], (80, 101)), "RLE mask of another size"),
    "rle of texts": (rle(["8000"]), "RLE mask with broken counts"),
    "rle that is cut off": (rle("PPY"), "RLE mask with broken counts"),
    "rle of other characters": (rle("é☃"), "RLE mask with broken counts"),
    "rle of endless counts": (rle("o" * 100_000), "RLE mask with broken counts"),
    "rle without size": (first("annotations", segmentation={"counts": [8000]}), "RLE mask with broken counts"),
    "rle whose size is huge": (rle([10**10], (10**5, 10**5)), "RLE mask of another size"),
    # image files
    "empty image": (image(b""), f"*{UNUSED}is empty"),
    "all images empty": (all_images(b""), "4 of 4 images"),
    "image is a text": (image(b"this is no image"), f"*{UNUSED}cannot be decoded"),
    "image is a web page": (image(b"<!DOCTYPE html><html>"), f"*{UNUSED}cannot be decoded"),
    "half a jpeg": (image(encoded(".jpg")[:4000]), f"*{UNUSED}is a JPEG that is cut off"),
    "head of a jpeg": (image(encoded(".jpg")[:100]), f"*{UNUSED}cannot be"),
    "half a png": (image(encoded(".png")[:9000]), f"*{UNUSED}is a PNG that is cut off"),
    "image of another size": (image(encoded(".jpg", 120, 80)), f"*{UNUSED}has 120 x 80 pixels and 100 x 80"),
    "image lies on its side": (image(encoded(".jpg", 80, 100)), f"*{UNUSED}has 80 x 100 pixels and 100 x 80"),
    "all of another size": (all_images(encoded(".jpg", 120, 80)), "boxes would miss their objects"),
    "bomb": (image(png_of(40_000, 40_000)), f"*{UNUSED}has 1,600,000,000 pixels"),
    "small bomb": (image(png_of(11_000, 11_000)), f"*{UNUSED}has 11000 x 11000 pixels"),
    "png that claims nothing": (image(png_of(0, 0)), f"*{UNUSED}cannot be"),
    "damaged png": (image(encoded(".png")[:3000] + b"\0" * 3000 + encoded(".png")[6000:]), f"*{UNUSED}cannot be"),
    "folder for an image": (folder_for_image, f"*{UNUSED}"),
    "absent image": (lambda root: (root / "train2017/001.jpg").unlink(), "1 of the 4 images"),
}


def scored(root: Path) -> dict:
    """Sentences of the checks of a scored split, and where there is none what a whole evaluation of it gives."""
    dataset = dataset_config(root, test_mode=True, filter_cfg=FILTER)
    file = str(root / "annotations/instances_train2017.json")
    evaluator = {"type": "CocoMetric", "ann_file": file, "metric": ["bbox", "segm"]}
    cfg = Config({"val_dataloader": {"dataset": dataset}, "val_evaluator": evaluator})
    if sentences := [str(mistake) for mistake in find_problems(cfg, "val")]:
        return {"refused": sentences}
    metric = METRICS.build(exact_metrics(evaluator))
    metric.dataset_meta = {"classes": NAMES}
    for image in json.loads(Path(file).read_text())["images"]:
        found = {"bboxes": torch.tensor([[60.0, 40, 90, 60]] * 2), "scores": torch.tensor([0.9, 0.8])}
        found |= {"labels": torch.tensor([0, 1]), "masks": torch.ones(2, image["height"], image["width"]).bool()}
        size = {"ori_shape": (image["height"], image["width"])}
        metric.process({}, [{"img_id": image["id"], "pred_instances": found, **size}])
    with contextlib.redirect_stdout(io.StringIO()):
        return metric.evaluate(len(metric.results))


def outcome(change: Callable[[Path], object], root: Path) -> dict:
    """Sentences and warnings for a spoiled folder; loads every image where there is no sentence, as a training does."""
    warnings: list[str] = []
    for module in (preflight.data, preflight.images, preflight.classes, load_image):
        module.print_log = lambda message, logger, level=logging.INFO: warnings.append(message)
    try:
        write_coco(root)
        change(root)
        cfg = Config({"train_dataloader": {"dataset": dataset_config(root, filter_cfg=FILTER)}})
        sentences = [str(mistake) for mistake in find_problems(cfg, "train")]
        loaded = 0
        if not sentences:
            dataset = DATASETS.build(cfg.train_dataloader.dataset)
            load_image.protect_loading(dataset, cfg)
            loaded = sum(dataset[index]["inputs"].shape[0] == 3 for index in range(len(dataset)))
        reported = list(warnings)
        return {
            "sentences": sentences,
            "warnings": reported,
            "loaded": loaded,
            "scored": scored(root),
            "reported": warnings,
        }
    except UserError as error:
        return {"sentences": [str(error)], "warnings": warnings, "loaded": 0}
    except BaseException:
        return {"traceback": traceback.format_exc()[-1500:]}
    finally:
        shutil.rmtree(root, ignore_errors=True)


def write_outcomes(folder: Path) -> None:
    """Write {case: outcome} as JSON, of all cases in turn in this process, whose memory is limited from here on."""
    torch.set_num_threads(1)  # those of OpenMP do not survive a fork
    init_default_scope("mmdet")
    write_coco(folder / "good")
    DATASETS.build(dataset_config(folder / "good"))[0]  # imports what is imported late
    if Path("/proc/self/statm").exists():
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    found = {name: outcome(change, folder / "set") for name, (change, _) in CASES.items()}
    (folder / "outcomes.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict:
    """All cases in one process of limited memory."""
    folder = tmp_path_factory.mktemp("bad")
    process = Forked(partial(write_outcomes, folder), folder / "said.txt")
    assert process.wait(300) == 0, process.text()[-3000:]
    return json.loads((folder / "outcomes.json").read_text())


def test_there_are_enough():
    assert len(CASES) >= 60


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_named_or_survived(outcomes, case):
    found, words = outcomes[case], CASES[case][1]
    assert "traceback" not in found, found["traceback"]
    if words.startswith("*"):
        assert found["sentences"] == []
        assert words[1:] in " ".join(found["warnings"])
        assert found["loaded"] >= 3
    else:
        assert words in found["sentences"][0]
        assert "\n" not in found["sentences"][0].replace("a\nb.jpg", "")


@pytest.mark.parametrize("case", CASES)
def test_scored_splits_are_refused_or_scored(outcomes, case):
    """What the checks of a validation let pass ends in numbers; what is left out of them is counted."""
    found = outcomes[case].get("scored", {"refused": outcomes[case]["sentences"]})
    assert found.get("refused") or 0 <= found["coco/bbox_mAP"] <= 1
    if case in LEFT_OUT:
        reported = " ".join(outcomes[case]["reported"])
        assert LEFT_OUT[case] in reported
        assert ("Scoring leaves out" in reported) is LEFT_OUT[case].startswith("Scoring leaves out")


LEFT_OUT = {
    "box without area": "Scoring leaves out 1 of the 8 annotations",
    "box outside": "Scoring leaves out 1 of the 8 annotations",
    "unknown category": "Scoring leaves out 1 of the 8 annotations",
    "unknown image": "Scoring leaves out 1 of the 8 annotations",
    "ignored": "count neither as found nor as missed: 1 are marked with ignore",
    "polygon of two points": "Scoring of masks leaves out 1 of the 8 annotations",
}
