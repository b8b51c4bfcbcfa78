"""A small training in a process of its own, which others may kill."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from localvit_det.datasets.shapes import make_shapes
from localvit_det.errors import UserError
from localvit_det.files import write_text

ROOT = Path(__file__).resolve().parents[2]
INTERVAL = 2  # iterations between two checkpoints
EPOCH = 8  # iterations
PATIENCE = 600.0  # seconds for whatever has to happen in a training

CONFIG = """_base_ = {base!r}
# Sixteen images of 64 by 64 pixels, one of them empty; averaged weights, so that these have to survive, too.
train_cfg = dict(max_epochs={epochs}, val_interval={val_interval})
train_dataloader = dict(batch_size=2)
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval={interval}, max_keep_ckpts=1),
)
model = dict(backbone=dict(arch=dict(drop_path_rate=0.1)))
custom_hooks = [dict(type="LoadPolicyHook"), dict(type="FusedEvaluationHook"), dict(type="EMAHook", momentum=0.01)]
"""


@dataclass(frozen=True)
class Task:
    """What is trained: the nano Mask R-CNN on a few drawn images, with a checkpoint every second iteration.

    Attributes:
        folder: Data, config and work dirs go below it.
        iterations: Of the whole training; a multiple of those of an epoch.
        fork: Start trainings as forks of this process instead of as commands: quicker, and less as in life.
    """

    folder: Path
    iterations: int
    fork: bool = False

    @classmethod
    def prepare(cls, folder: Path, iterations: int, fork: bool) -> Task:
        """Draws the images and writes the config."""
        epochs = -(-iterations // EPOCH)
        folder = folder.absolute()
        make_shapes(folder / "data", num_train=16, num_val=4, size=64)
        base = str(ROOT / "configs/mask_rcnn_shuffle_nano_shapes.py")
        settings = {"base": base, "epochs": epochs, "val_interval": max(2, epochs // 4), "interval": INTERVAL}
        write_text(folder / "chaos_nano.py", CONFIG.format(**settings))
        return cls(folder, EPOCH * epochs, fork)

    def arguments(self, work_dir: Path) -> list[str]:
        """Of tools/train.py."""
        options = [f"data_root={self.folder}/data/", f"param_scheduler.1.end={self.iterations // EPOCH}"]
        config = str(self.folder / "chaos_nano.py")
        return [config, "--work-dir", str(work_dir), "--resume", "--cfg-options", *options]

    def start(self, work_dir: Path, file_limit: int | None = None) -> Training:
        """Starts the training, or lets it go on.

        Args:
            work_dir: Its work dir.
            file_limit: Bytes beyond which no file may grow, which stands for a full disk.
        """
        work_dir.mkdir(parents=True, exist_ok=True)
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        # A file for each start: a long one would be in the way of `file_limit`.
        log = logs / f"{work_dir.name}_{len(list(logs.glob(f'{work_dir.name}_*'))) + 1:03d}.log"
        if self.fork:
            pid = _fork(lambda: _train(self.arguments(work_dir), file_limit), log)
            return Training(pid, None, work_dir, log)
        command = [sys.executable, str(ROOT / "tools/train.py"), *self.arguments(work_dir)]
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, env=environment, start_new_session=True,
                preexec_fn=None if file_limit is None else lambda: _limit_files(file_limit),
            )  # fmt: skip
        return Training(process.pid, process, work_dir, log)


class Training:
    """One process of a training, the first of a group of its own."""

    def __init__(self, pid: int, process: subprocess.Popen | None, work_dir: Path, log: Path) -> None:
        self.pid, self.work_dir, self.started = pid, work_dir, time.monotonic()
        self._process, self._log = process, log
        self._code: int | None = None
        self._earlier = set(work_dir.glob("*/vis_data/scalars.json"))

    def exit_code(self) -> int | None:
        """Minus the signal that it died of; None while it runs."""
        if self._code is None:
            if self._process is not None:
                self._code = self._process.poll()
            else:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self) -> int:
        """Waits for its end and returns its exit code."""
        self.until(lambda: False)
        return self._code

    def until(self, condition: Callable[[], bool], pause: float = 0.02) -> bool:
        """Waits until a condition holds, True, or the training has ended, False.

        Raises:
            UserError: Neither happens in time.
        """
        end = time.monotonic() + PATIENCE
        while self.exit_code() is None:
            if condition():
                return True
            if time.monotonic() > end:
                self.kill(signal.SIGKILL, whole_group=True)
                raise UserError(f"A training did not move for {PATIENCE:g} s: see {self._log}.")
            time.sleep(pause)
        return False

    def kill(self, number: int, whole_group: bool) -> None:
        """Sends a signal, to its data workers as well or to itself alone."""
        with suppress(ProcessLookupError):
            (os.killpg if whole_group else os.kill)(self.pid, number)

    def logged(self) -> tuple[int, int]:
        """The first and the last iteration that it has trained and logged, 0 for none yet."""
        steps = [0]
        for file in set(self.work_dir.glob("*/vis_data/scalars.json")) - self._earlier:
            for line in file.read_text().splitlines():
                with suppress(ValueError):  # the line that is being written
                    entry = json.loads(line)
                    if "loss" in entry:
                        steps.append(int(entry["step"]))
        return steps[:2][-1], steps[-1]

    def done(self) -> int:
        """The last iteration that it has trained and logged, 0 for none yet."""
        return self.logged()[1]

    def text(self) -> str:
        """What it has written."""
        return self._log.read_text(errors="replace")

    def workers(self) -> list[int]:
        """Its children (Linux; elsewhere none are seen)."""
        file = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        with suppress(OSError):
            return [int(child) for child in file.read_text().split()]
        return []


def is_alive(pid: int) -> bool:
    """Whether a process runs (Linux); one that nobody has waited for does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _fork(run: Callable[[], None], log: Path) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.setsid()
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            sys.stdout = sys.stderr = os.fdopen(handle, "w", buffering=1)
            run()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        finally:
            os._exit(code)
    return pid


def _train(arguments: list[str], file_limit: int | None) -> None:
    from mmdet.visualization import DetLocalVisualizer

    from localvit.commands.train import main

    # One of an earlier training in this process would take the curves of this one.
    DetLocalVisualizer._instance_dict.clear()
    if file_limit is not None:
        _limit_files(file_limit)
    main(arguments)
