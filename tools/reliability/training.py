"""A small training in a process of its own, which others may kill."""

from __future__ import annotations

import json
import os
import pty
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from localvit.process import survive_closed_streams
from localvit_det.datasets.synthetic_shapes import make_shapes
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
model = dict(
    backbone=dict(arch=dict(depths=(1, 1, 1, 1), drop_path_rate=0.1)),
    roi_head=dict(bbox_head=dict(fc_out_channels=64)),
)
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
        """Draw the images and write the config."""
        epochs = -(-iterations // EPOCH)
        folder = folder.absolute()
        make_shapes(folder / "data", num_train=16, num_val=4, size=64)
        base = str(ROOT / "configs/mask_rcnn_shuffle_nano_shapes.py")
        settings = {"base": base, "epochs": epochs, "val_interval": max(2, epochs // 4), "interval": INTERVAL}
        write_text(folder / "chaos_nano.py", CONFIG.format(**settings))
        return cls(folder, EPOCH * epochs, fork)

    def arguments(self, work_dir: Path) -> list[str]:
        """Return those of tools/train.py."""
        options = [f"data_root={self.folder}/data/", f"param_scheduler.1.end={self.iterations // EPOCH}"]
        config = str(self.folder / "chaos_nano.py")
        return [config, "--work-dir", str(work_dir), "--resume", "--cfg-options", *options]

    def start(self, work_dir: Path, file_limit: int | None = None, reader: Sequence[str] | None = None) -> Training:
        """Start the training, or let it go on.

        Args:
            work_dir: Its work dir.
            file_limit: Bytes beyond which no file may grow, which stands for a full disk.
            reader: Run in a terminal, with the output through this command as in `2>&1 | reader`; straight if empty.
        """
        work_dir.mkdir(parents=True, exist_ok=True)
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        # A file for each start: a long one would be in the way of `file_limit`.
        log = logs / f"{work_dir.name}_{len(list(logs.glob(f'{work_dir.name}_*'))) + 1:03d}.log"

        def run() -> None:
            limit_files(file_limit)
            if self.fork:
                _train(self.arguments(work_dir))
                return
            environment = {"OMP_NUM_THREADS": "1", **os.environ}
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
            command = [sys.executable, str(ROOT / "tools/train.py"), *self.arguments(work_dir)]
            os.execve(sys.executable, command, environment)

        return Training(*start_process(run, log, reader), work_dir, log)


class Training:
    """A process, the first of a session of its own.

    Args:
        pid: Of the process.
        terminal: The other end of its terminal, None where it has none.
    """

    def __init__(self, pid: int, terminal: int | None, work_dir: Path, log: Path) -> None:
        self.pid, self.work_dir, self.started = pid, work_dir, time.monotonic()
        self._terminal, self._log = terminal, log
        self._code: int | None = None
        self._earlier = set(work_dir.glob("*/vis_data/scalars.json"))

    def exit_code(self) -> int | None:
        """Return minus the signal that it died of; None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        with suppress(OSError):  # nothing to read, or nothing writes any more
            while self._terminal is not None and (content := os.read(self._terminal, 1 << 16)):
                with self._log.open("ab") as log:
                    log.write(content)
        return self._code

    def wait(self) -> int:
        """Wait for its end and return its exit code."""
        self.until(lambda: False)
        self.close_terminal()
        return self._code

    def until(self, condition: Callable[[], bool], pause: float = 0.02) -> bool:
        """Wait until a condition holds (True) or the training has ended (False).

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
        """Send a signal, to its data workers as well or to itself alone."""
        with suppress(ProcessLookupError):
            (os.killpg if whole_group else os.kill)(self.pid, number)

    def seconds(self) -> float:
        """Return how long it has been since the start."""
        return time.monotonic() - self.started

    def type(self, keys: bytes) -> None:
        """Send keys through the terminal."""
        os.write(self._terminal, keys)

    def close_terminal(self) -> None:
        """Let the terminal go, if there is one."""
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None

    def logged(self) -> tuple[int, int]:
        """Return the first and the last iteration that it has trained and logged, 0 for none yet."""
        steps = [0]
        for file in set(self.work_dir.glob("*/vis_data/scalars.json")) - self._earlier:
            for line in file.read_text().splitlines():
                with suppress(ValueError):  # the line that is being written
                    entry = json.loads(line)
                    if "loss" in entry:
                        steps.append(int(entry["step"]))
        return steps[:2][-1], steps[-1]

    def done(self) -> int:
        """Return the last iteration that it has trained and logged, 0 for none yet."""
        return self.logged()[1]

    def text(self) -> str:
        """Return what it has written."""
        return self._log.read_text(errors="replace")

    def workers(self) -> list[int]:
        """Return its children."""
        return children(self.pid)


def children(pid: int) -> list[int]:
    """Return the living children of a process (Linux; elsewhere none are seen)."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def is_alive(pid: int) -> bool:
    """Whether a process runs (Linux); one that has ended and was not waited for does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def limit_files(size: int | None) -> None:
    """Let no file of this process grow beyond so many bytes, if any."""
    if size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def start_process(run: Callable[[], object], log: Path, reader: Sequence[str] | None) -> tuple[int, int | None]:
    """Fork, and call a function; `reader` is that of `Task.start`.

    Returns:
        The process, and the other end of its terminal.
    """
    sys.stdout.flush()
    pid, terminal = (os.fork(), None) if reader is None else pty.fork()
    if pid:
        if terminal is not None:
            os.set_blocking(terminal, False)
        return pid, terminal
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where chaos runs in the background
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        if reader is None:
            os.setsid()
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        else:
            output = _pipe_to(reader) if reader else 1
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(output, number)
            stream = os.fdopen(number, "w", closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        if output > 2:
            os.close(output)
        survive_closed_streams()
        run()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _pipe_to(command: Sequence[str]) -> int:
    """Start a command in this process group, and return where its input is written."""
    end, start = os.pipe()
    if os.fork() == 0:
        os.dup2(end, 0)
        os.close(start)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execvp(command[0], command)
    os.close(end)
    return start


def _train(arguments: list[str]) -> None:
    from mmdet.visualization import DetLocalVisualizer

    from localvit.commands.train import main

    # One of an earlier training in this process would take the curves of this one.
    DetLocalVisualizer._instance_dict.clear()
    main(arguments)
