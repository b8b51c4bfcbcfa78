"""Annotation files of any size, and what reading them takes: `python -m benchmarks.scale --annotations 4000000`.

`python -m benchmarks.scale workers` measures the memory of data workers over an epoch: see `benchmarks.workers`;
`loading` compares the time to load an image with MMDetection's: see `benchmarks.loading`.

The file is written as a stream. Ours and MMDetection's reading (its `CocoDataset`) run in fresh processes, one after
the other; CPU seconds and the peak of memory are what the imports alone do not take.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pycocotools.mask import frPyObjects

from . import loading, workers
from .measure import in_fresh_process, resident

WIDTH, HEIGHT, CLASSES = 640, 480, 80
READERS = ("imports", "ours", "again", "mmdet")


def write_annotations(
    path: Path,
    images: int,
    annotations: int,
    points: int = 0,
    sizes: Sequence[tuple[int, int]] = ((WIDTH, HEIGHT),),
    rle: bool = False,
) -> None:
    """Write a COCO-format file in COCO's order, with boxes, or polygons of so many points; sizes of images in turn.

    Args:
        rle: Write compressed run lengths of the polygons' masks in their place.
    """
    chance = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        file.write('{"info": {}, "licenses": [], "images": [')
        for i in range(images):
            width, height = sizes[i % len(sizes)]
            image = {"license": 1, "file_name": f"{i:012}.jpg", "height": height, "width": width, "id": i}
            file.write(", " * (i > 0) + json.dumps(image))
        file.write('], "annotations": [')
        for i in range(annotations):
            at = chance.randrange(images)
            width, height = sizes[at % len(sizes)]
            x, y = round(chance.uniform(0, width - 80), 2), round(chance.uniform(0, height - 80), 2)
            w, h = round(chance.uniform(2, 80), 2), round(chance.uniform(2, 80), 2)
            one = {"area": round(w * h, 4), "iscrowd": 0, "image_id": at, "bbox": [x, y, w, h]}
            if points:
                polygon = [round(v + chance.random() * s, 2) for _ in range(points) for v, s in ((x, w), (y, h))]
                mask = frPyObjects([polygon], height, width)[0] if rle else {}
                one = {"segmentation": {**mask, "counts": mask["counts"].decode()} if rle else [polygon], **one}
            file.write(", " * (i > 0) + json.dumps({**one, "category_id": 1 + i % CLASSES, "id": i + 1}))
        categories = [{"supercategory": "thing", "id": i, "name": f"class {i}"} for i in range(1, CLASSES + 1)]
        file.write(f'], "categories": {json.dumps(categories)}}}')


def read(reader: str, path: Path) -> tuple[float, float]:
    """Read a file in one way; return CPU seconds and the peak of memory in megabytes."""
    from mmdet.datasets import CocoDataset

    from localvit_det.datasets.annotations import read_annotations

    start = time.process_time()
    if reader in ("ours", "again"):
        read_annotations(path)
    elif reader == "mmdet":
        classes = tuple(f"class {i}" for i in range(1, CLASSES + 1))
        CocoDataset(ann_file=str(path), metainfo={"classes": classes}, data_prefix={"img": ""}, pipeline=[])
    return time.process_time() - start, resident() / 2**20


def measure(path: Path, cache: Path, readers: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """Return CPU seconds and megabytes above those of the imports, of each reader in a process of its own."""
    found: dict[str, tuple[float, float]] = {}
    base = 0.0
    for reader in readers:
        one = in_fresh_process(read, reader, path, OMP_NUM_THREADS="1", LOCALVIT_CACHE=str(cache))
        if one is None:
            print(f"{reader}: the process ended without a result (out of memory?)", file=sys.stderr)
            continue
        base = one[1] if reader == "imports" else base
        found[reader] = one[0], one[1] - base
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Write a file, read it, and print a line for each reader."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("reading", "workers", "loading"), default="reading")
    parser.add_argument("--annotations", type=int, default=860_001)
    parser.add_argument("--images", type=int, help="by default as many as COCO has for so many annotations")
    parser.add_argument("--points", type=int, default=0, help="of each polygon; 0 for boxes alone")
    parser.add_argument("--rle", action="store_true", help="run lengths in the place of the polygons")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=READERS)
    parser.add_argument("--sides", nargs="+", choices=workers.SIDES, default=workers.SIDES, help="of workers")
    parser.add_argument("--methods", nargs="+", choices=workers.METHODS, default=workers.METHODS, help="of workers")
    parser.add_argument("--workers", nargs="+", type=int, default=(2, 8))
    parser.add_argument("--real", action="store_true", help="let workers decode pictures")
    parser.add_argument("--coco", type=Path, help="a folder in COCO's layout, for loading")
    parser.add_argument("--rounds", type=int, default=5, help="of loading")
    args = parser.parse_args(argv)
    if args.what == "loading":
        return loading.compare(args.coco, args.rounds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances_train2017.json"
        images = args.images or max(1, args.annotations * 118_287 // 860_001)
        write_annotations(path, images, args.annotations, args.points or 4 * args.real, workers.SIZES, args.rle)
        if args.what == "workers":
            pictures = Path(folder) / "train2017" if args.real else None
            if pictures:
                workers.link_pictures(pictures, [f"{i:012}.jpg" for i in range(images)])
            workers.show(workers.measure(path, pictures, args.sides, args.methods, args.workers))
            return None
        size = path.stat().st_size / 1e6
        for reader, (seconds, megabytes) in measure(path, Path(folder), tuple(args.readers)).items():
            share = f"{megabytes * 1.048576 / size:.2f} times the file"
            print(f"{reader:8} {size:6.0f} MB  {seconds:7.2f} CPU s  {megabytes:7.0f} MiB more than imports, {share}")
    return None


if __name__ == "__main__":
    main()
