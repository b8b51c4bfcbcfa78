"""Memory of data workers over an epoch: `python -m benchmarks.scale workers`, at COCO's size by default.

A process loads the annotations, with the checks before a training (ours) or without (MMDetection), and goes through an
epoch with new workers for each way to start them and each number of them. Growth is private memory, which no other
process shares (/proc/*/smaps_rollup), of the worker that grew most: from when all have handed over a batch to the end.
What grows with the dataset is what is beyond a second epoch of as many images, which are the first few again and again.
With --real pictures are decoded and scaled, from hard links to a few files; without, images are small and empty.
"""

import gc
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from torch.utils.data import DataLoader

from .measure import in_fresh_process

SIDES = ("ours", "mmdet")
METHODS = ("fork", "spawn")
SIZES = ((640, 480), (480, 640), (640, 427), (427, 640), (500, 375), (375, 500), (640, 640), (612, 612))  # as in COCO
BATCH = 16
_FEW = 64  # images of the epoch to compare with


class EmptyImages:
    """A transform in the place of those that load, scale and turn images."""

    def __call__(self, results: dict) -> dict:
        """Add a black image of 8×8 pixels."""
        return {**results, "img": np.zeros((8, 8, 3), np.uint8), "img_shape": (8, 8), "ori_shape": (8, 8)}


class FirstAgain:
    """As many images as a dataset has: its first few, again and again."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index % _FEW]


class Growth(NamedTuple):
    """Megabytes of a loader's workers.

    Attributes:
        private: Of the largest worker, when all have begun.
        growth: Of the worker that grew most, over the epoch.
        shared: All memory of all workers together, pages that several have being divided among them.
    """

    private: float
    growth: float
    shared: float


def link_pictures(folder: Path, names: list[str]) -> None:
    """Make pictures of `SIZES`, of noise as fine as a photo's, and hard links to them in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(0)
    for i, name in enumerate(names):
        if i < len(SIZES):
            width, height = SIZES[i]
            noise = chance.integers(0, 256, (height // 8, width // 8, 3)).astype(np.uint8)
            cv2.imwrite(str(folder / name), cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC))
        else:
            os.link(folder / names[i % len(SIZES)], folder / name)


def memory(pid: int) -> dict[str, float]:
    """Return the megabytes of a process by their names in smaps_rollup, and those that are `Private`."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    found = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
    return {**found, "Private": found["Private_Clean"] + found["Private_Dirty"]}


def grow(dataset: Any, side: str, method: str, workers: int) -> Growth:
    """Go through an epoch of a dataset, and return what its workers took."""
    from mmengine.dataset import DefaultSampler, pseudo_collate

    from localvit_det.engine.data_loader import guard_workers, make_resumable

    settings: dict = {"persistent_workers": True, "multiprocessing_context": method, "collate_fn": pseudo_collate}
    sampler = DefaultSampler(dataset, shuffle=True, seed=0)
    loader = DataLoader(dataset, BATCH, sampler=sampler, num_workers=workers, **settings)
    if side == "ours":
        guard_workers(loader)
        make_resumable(loader)
    batches = iter(loader)
    for _ in range(2 * workers):
        next(batches)
    pids = [worker.pid for worker in batches._workers]  # type: ignore[attr-defined]
    begun = [memory(pid)["Private"] for pid in pids]
    for _ in batches:
        pass
    ended = [memory(pid) for pid in pids]
    batches._shutdown_workers()  # type: ignore[attr-defined]
    grown = [one["Private"] - before for one, before in zip(ended, begun, strict=True)]
    return Growth(max(begun), max(grown), sum(one["Pss"] for one in ended))


def run(side: str, file: Path, pictures: Path | None, methods: list[str], counts: list[int]) -> dict:
    """Load the annotations of a file, and return what is measured."""
    from mmdet.datasets import CocoDataset
    from mmengine.registry import init_default_scope

    from localvit_det.datasets.load_image import protect_loading

    from .scale import CLASSES

    init_default_scope("mmdet")
    if side == "ours":
        from localvit_det.datasets.annotations import forget_annotations, read_annotations

        read_annotations(file)
        forget_annotations()
    load: list = [EmptyImages(), {"type": "LoadAnnotations", "with_bbox": True}]
    if pictures:
        mask = {"with_bbox": True, "with_mask": True}
        load = [{"type": "LoadImageFromFile"}, {"type": "LoadCompactAnnotations", **mask}]
        load += [{"type": "Resize", "scale": (1333, 800), "keep_ratio": True}, {"type": "RandomFlip", "prob": 0.5}]
    dataset = CocoDataset(
        ann_file=str(file),
        metainfo={"classes": tuple(f"class {i}" for i in range(1, CLASSES + 1))},
        data_prefix={"img": str(pictures or file.parent)},
        pipeline=[*load, {"type": "PackDetInputs"}],
    )
    if side == "ours":
        protect_loading(dataset, {})
    gc.collect()
    found: dict = {"main": memory(os.getpid())["Private"], "serialized": dataset.data_bytes.nbytes / 2**20}
    for method in methods:
        for workers in counts:
            few = grow(FirstAgain(dataset), side, method, workers).growth
            found[f"{method} {workers}"] = *grow(dataset, side, method, workers), few
            print(f"{side} {method} {workers}", *found[f"{method} {workers}"], file=sys.stderr)
    return found


def measure(file: Path, pictures: Path | None, sides: list[str], methods: list[str], counts: list[int]) -> dict:
    """Return what is measured on each side, in a process of its own, unless that died."""
    own = {"OMP_NUM_THREADS": "1", "LOCALVIT_CACHE": str(file.parent)}
    found = {side: in_fresh_process(run, side, file, pictures, methods, counts, **own) for side in sides}
    return {side: one for side, one in found.items() if one is not None}


def show(found: dict) -> None:
    """Print a line for each measurement."""
    for side, values in found.items():
        print(f"{side:6} main process {values['main']:.0f} MiB private, {values['serialized']:.1f} MiB serialized")
        for name, one in values.items():
            if name not in ("main", "serialized"):
                private, growth, shared, few = one
                share = (growth - few) / values["serialized"]
                print(
                    f"{side:6} {name:8} workers: {private:6.1f} MiB private, then {growth:+6.2f}, with few images "
                    f"{few:+6.2f} (the rest is {share:.1%} of the serialized form); {shared:.0f} MiB together"
                )
