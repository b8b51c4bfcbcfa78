"""A newcomer's hour: from folders of images to trained, judged, compared and exported detectors, by the docs' commands.

    python tools/newcomers_hour.py --out work_dirs/hour shapes /data/mine

Each command runs in a process of its own. A row says how it ended, after how many seconds, and its last line; all that
it printed is in OUT. `shapes` stands for synthetic shapes, which are drawn. `--short` trains once, for two layouts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2

from localvit_det.cli import handle_user_errors
from localvit_det.datasets.synthetic_shapes import make_shapes

CONFIG = "mask_rcnn_shuffle_nano_shapes"
TESTS = Path(__file__).parents[1] / "tests"  # which writes datasets in other layouts
Step = tuple[str, list[str]]  # what it is, arguments of localvit
SETTINGS = (
    ["--batch", "2"],
    ["--batch", "4", "--lr", "1e-4", "--imgsz", "320"],
    ["--batch", "2", "--augment", "flip", "--freeze", "1", "--load-from", "FIRST"],  # the first training
)


def sources(root: Path, out: Path) -> list[str]:
    """Return six kinds of sources: an image, a folder, a glob, a video, an animation, an image of another format."""
    images = sorted(path for path in root.rglob("*.jpg"))[:4]
    frames = [cv2.resize(cv2.imread(os.fspath(path)), (160, 120)) for path in images]
    video = cv2.VideoWriter(os.fspath(out / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (160, 120))
    for frame in frames:
        video.write(frame)
    video.release()
    cv2.imwriteanimation(os.fspath(out / "clip.gif"), _animation(frames))
    cv2.imwrite(os.fspath(out / "image.png"), frames[0])
    few = out / "few"
    few.mkdir(exist_ok=True)
    for path, frame in zip(images, frames, strict=True):
        cv2.imwrite(os.fspath(few / path.name), frame)
    return [*map(os.fspath, (images[0], few, few / "*.jpg", out / "clip.avi", out / "clip.gif", out / "image.png"))]


def _animation(frames: list) -> cv2.Animation:
    animation = cv2.Animation()
    animation.frames, animation.durations = frames, [200] * len(frames)
    return animation


def steps_of_a_dataset(root: Path, out: Path, epochs: int, short: bool) -> Iterator[Step]:
    """Yield the commands from a check to an exported file."""
    data = ["--cfg-options", f"data_root={root}", "classes=auto"]
    runs = [out / f"run_{number}" for number in range(1 if short else len(SETTINGS))]
    yield "check", ["check", CONFIG, *data]
    for run, setting in zip(runs, SETTINGS, strict=False):
        settings = [os.fspath(runs[0]) if value == "FIRST" else value for value in setting]
        common = ["--epochs", str(epochs), "--workers", "0", "--work-dir", os.fspath(run)]
        yield f"train {' '.join(setting)}", ["train", CONFIG, *common, *settings, *data]
    yield "test", ["test", os.fspath(runs[0]), "--work-dir", os.fspath(out / "test"), "--report"]
    for source in sources(root, out):
        yield f"predict {Path(source).name}", ["predict", os.fspath(runs[0]), source, "--out", os.fspath(out / "found")]
        if short:
            break
    yield "export", ["export", os.fspath(runs[0]), "--out", os.fspath(out / "detector.pt")]
    if not short:
        yield "compare", ["compare", *map(os.fspath, runs[:2])]


def steps_of_layouts(shapes: Path, out: Path, short: bool) -> Iterator[Step]:
    """Yield a check of the same images in each layout that is read."""
    sys.path.insert(0, os.fspath(TESTS))
    import other_formats  # type: ignore[import-not-found]  # of tests/, like the next
    from odd_layouts import LAYOUTS  # type: ignore[import-not-found]

    makers = {name: (make, needed) for name, (make, _, needed) in LAYOUTS.items()}
    for name in ("yolo", "voc", "labelme", "via", "cvat"):
        split = () if name in ("yolo", "voc") else ("val_split=0.25",)
        makers[f"{name} as it is"] = (
            getattr(other_formats, name),
            (*split, *(["with_mask=False"] if name == "voc" else [])),
        )
    for name, (make, needed) in list(makers.items())[: 2 if short else None]:
        root = out / name.replace(" ", "_")
        root.mkdir(parents=True)
        make(shapes, root)
        yield f"check {name}", ["check", CONFIG, "--cfg-options", f"data_root={root}", "classes=auto", *needed]


def run(steps: Iterator[Step], out: Path) -> int:
    """Run commands in turn, print a row for each, and return how many failed."""
    failed = 0
    for number, (name, argv) in enumerate(steps):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "localvit", *argv], capture_output=True, text=True)
        seconds = time.perf_counter() - started
        (out / f"{number:02}_{argv[0]}.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
        lines = [line for line in (done.stdout.strip() or done.stderr).splitlines() if line.strip()]
        print(f"{done.returncode:>3}  {seconds:6.1f} s  {name}: {lines[-1].strip()[:90] if lines else ''}", flush=True)
        failed += done.returncode != 0
    return failed


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run all steps; the exit code is 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", help="folders of images with annotations, or `shapes`")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for all that is written")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--short", action="store_true")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True)
    size = 6 if args.short else 40
    shapes = make_shapes(args.out / "shapes", num_train=size, num_val=size // 2, size=96)
    failed = 0
    for number, dataset in enumerate(args.datasets):
        folder = args.out / f"dataset_{number}"
        folder.mkdir()
        print(f"{dataset}:")
        root = shapes if dataset == "shapes" else Path(dataset)
        failed += run(steps_of_a_dataset(root, folder, args.epochs, args.short), folder)
    print("layouts:")
    (args.out / "layouts").mkdir()
    failed += run(steps_of_layouts(shapes, args.out / "layouts", args.short), args.out / "layouts")
    print(f"{failed} commands failed." if failed else "All commands ended well.")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
