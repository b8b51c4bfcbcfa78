"""Commands that write files: each file is there whole or not at all, whatever ends the command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import cv2

from localvit_det.files import write_text

from .checks import torn
from .training import Task, Training, limit_files, start_process

_GROW = ("*.log", "*.partial", "vis_data/*.json")  # files that get a line now and then


def commands(task: Task, model: Path) -> dict[str, list[str]]:
    """Return arguments of `localvit`, with {out} for the folder of outputs; makes the inputs that they need."""
    yolo, clip = task.folder / "yolo", task.folder / "clip.mp4"
    if not yolo.exists():
        shutil.copytree(task.folder / "data/val2017", yolo / "images/train")
        video = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"mp4v"), 5, (64, 64))
        for image in (yolo / "images/train").iterdir():
            write_text(yolo / f"labels/train/{image.stem}.txt", "0 0.5 0.5 0.25 0.25\n")
            video.write(cv2.imread(str(image)))
        video.release()
        write_text(yolo / "data.yaml", "train: images/train\nnames: [a]\n")
    data = ["--cfg-options", f"data_root={task.folder}/data/"]
    found = ["--out", "{out}/drawn", "--json", "{out}/found.json", "--crops", "{out}/crops", "--score", "0.01"]
    lines = {
        "predict": ["MODEL", f"{yolo}/images/train", str(clip), *found, "--device", "cpu"],
        "publish": ["MODEL", "--out-dir", "{out}"],
        "convert weights": ["MODEL", "{out}/weights.safetensors", "--config", "CONFIG"],
        "convert dataset": [str(yolo), "{out}/coco"],
        "export": ["MODEL", "--out", "{out}/nano.pt", "--size", "64x64"],
        "analyze": ["data", "CONFIG", "--out", "{out}/page.html", "--files", "{out}/files", *data],
        "test": ["CONFIG", "MODEL", "--work-dir", "{out}", "--out", "{out}/found.pkl", *data],
        "train": ["CONFIG", "--work-dir", "{out}", *data, "train_cfg.max_epochs=1", "param_scheduler.1.end=1"],
    }
    names = {"MODEL": str(model), "CONFIG": str(task.folder / "chaos_nano.py")}
    return {name: [name.split()[0], *(names.get(part, part) for part in line)] for name, line in lines.items()}


def disturb(task: Task, arguments: list[str], rounds: int, rng: Random) -> Iterator[str]:
    """Say what is wrong after a command that ends by itself, and after others that are killed or find a full disk."""
    whole = Ending(task, arguments)
    if whole.code or not whole.sizes:
        yield f"exit code {whole.code}, {len(whole.sizes)} files"
        return
    yield from whole.problems(whole.sizes)
    for number in range(rounds):
        kill = None if number % 2 else rng.random() * whole.seconds
        limit = rng.randrange(max(whole.sizes.values())) if number % 2 else None
        yield from Ending(task, arguments, kill, limit).problems(whole.sizes)


class Ending:
    """What a command has left that a user sees, when it has ended or was killed after some seconds.

    Attributes:
        sizes: By path below the folder of outputs.
        moved: The files and folders that got their name in one step.
    """

    def __init__(self, task: Task, arguments: list[str], kill: float | None = None, limit: int | None = None) -> None:
        self.out, log, names = (task.folder / name for name in ("outputs", f"logs/{arguments[0]}.log", "moved.txt"))
        shutil.rmtree(self.out, ignore_errors=True)
        for file in (log, names):
            write_text(file, "")

        def note(event: str, values: tuple) -> None:
            if event == "os.rename":
                os.write(moved, f"{os.path.relpath(values[1], self.out)}\n".encode())

        def command() -> None:
            from localvit.__main__ import main

            sys.addaudithook(note)
            limit_files(limit)
            main([argument.format(out=self.out) for argument in arguments])

        moved = os.open(names, os.O_WRONLY)
        process = Training(*start_process(command, log, None), self.out, log)
        os.close(moved)
        if kill is not None and process.until(lambda: process.seconds() > kill):
            process.kill(signal.SIGKILL, whole_group=True)
        self.code, self.seconds, self.text = process.wait(), process.seconds(), process.text()
        self.moved = set(names.read_text().splitlines())
        files = [file for file in self.out.rglob("*") if file.is_file() and not any(map(file.match, _GROW))]
        sizes = {str(file.relative_to(self.out)): file.stat().st_size for file in files}
        self.sizes = {file: size for file, size in sizes.items() if "/." not in f"/{file}"}

    def problems(self, whole: dict[str, int]) -> Iterator[str]:
        """Say what is wrong, compared with the sizes of an undisturbed command."""
        if "Traceback" in self.text:
            yield "a traceback"
        for file, size in self.sizes.items():
            if not self.moved.intersection(map(str, (Path(file), *Path(file).parents))):
                yield f"{file} is written under its final name"
            elif size != whole.get(file, size) and not _reads(self.out / file):
                yield f"{file} is torn"
        for file in whole.keys() - self.sizes.keys():
            if any(str(folder) in self.moved and (self.out / folder).exists() for folder in Path(file).parents):
                yield f"{file} is missing in its folder"


def _reads(file: Path) -> bool:
    """Whether a file of another size than usual is whole: JSON lacks what found no room, checkpoints hold times."""
    if file.suffix == ".pth":
        return torn(file) is None
    try:
        return file.suffix == ".json" and bool(json.loads(file.read_text()))
    except ValueError:
        return False
