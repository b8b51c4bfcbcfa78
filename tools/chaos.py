"""Kills a training again and again: `python tools/chaos.py --kills 50 --seed 0`.

A small training on the CPU saves every second iteration and keeps one checkpoint. It is killed at random moments by
SIGKILL and SIGTERM, by closing its terminal and by Ctrl-C there, also under `2>&1 | tee` and `| head -1`: while it
starts, in iterations, and while it writes a checkpoint. In between its files are cut off, deleted or misled, and its
disk is full. After each round at most one interval may be lost, and every file under a checkpoint's name must be whole;
in the end the weights must be bitwise identical to those of an undisturbed training. Then commands that write files are
killed, or find a full disk: each file under its final name must be whole.

Ends with exit code 1 where anything of that does not hold. The same seed draws the same kills, which meet the training
at slightly different moments each time.
"""

import _process  # noqa: F401 - settings that must stand before PyTorch starts

# isort: split
import argparse
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import localvit_det  # noqa: F401 - before anything that needs mmcv.ops
from localvit_det.cli import handle_user_errors
from localvit_det.errors import UserError
from localvit_det.files import check_writable_folder
from reliability.checks import differences, drafts, newest, problems, stamp
from reliability.faults import Kill, damage, draw_kills
from reliability.training import INTERVAL, Task, Training, is_alive
from reliability.writers import commands, disturb

FILE_LIMIT = 10_000_000  # bytes of a file on the full disk: logs fit, checkpoints do not


@dataclass
class Round:
    """What came of one start of the training.

    Attributes:
        base: The iteration that it went on from.
        done: The last one that it has trained.
        saved: The one of its newest checkpoint afterwards.
    """

    kind: str
    base: int
    done: int = 0
    saved: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Iterations that have to be trained again."""
        return max(0, self.done - self.saved)


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train undisturbed, train disturbed, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="default: %(default)s")
    parser.add_argument("--writers", type=int, default=6, help="rounds of each other command; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the kills; default: %(default)s")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/chaos"), help="default: %(default)s")
    parser.add_argument(
        "--fork", action="store_true", help="fork this process for each start: twice as quick, less as in life"
    )
    args = parser.parse_args(argv)
    check_writable_folder(args.work_dir, "--work-dir")
    task = Task.prepare(args.work_dir, iterations=4 * args.kills + 8, fork=args.fork)
    whole = task.folder / "undisturbed"
    shutil.rmtree(task.folder / "logs", ignore_errors=True)
    shutil.rmtree(whole, ignore_errors=True)
    progress(f"Undisturbed training of {task.iterations} iterations, a checkpoint every {INTERVAL} …")
    start_up, seconds = measure(task.start(whole))
    progress(f"{start_up:.1f} s to start, {seconds:.2f} s an iteration. Now with {args.kills} kills:")
    chaos = Chaos(task, args.seed, seconds)
    for number, kill in enumerate(draw_kills(args.kills, args.seed, start_up), start=1):
        chaos.round(f"{number:>3}/{args.kills}", kill)
    chaos.finish(whole)
    chaos.write(whole / f"iter_{task.iterations}.pth", args.writers)
    print(chaos.table(), flush=True)
    if wrong := sum(len(one.wrong) for one in chaos.rounds):
        raise UserError(f"{wrong} things went wrong, see above: logs and files are in {task.folder}.")


def measure(training: Training) -> tuple[float, float]:
    """Wait for a training's end; return seconds to its first iteration, and of an iteration."""
    training.until(lambda: training.done() > 0)
    first, begun = training.done(), time.monotonic()
    if code := training.wait():
        raise UserError(f"The undisturbed training ended with exit code {code}: see its log.")
    return begun - training.started, (time.monotonic() - begun) / max(1, training.done() - first)


class Chaos:
    """The disturbed training: rounds, and what they have found.

    Args:
        task: What is trained.
        seed: Of the damage to files.
        seconds: Of an iteration.
    """

    def __init__(self, task: Task, seed: int, seconds: float) -> None:
        self.task, self.seconds = task, seconds
        self.work_dir = task.folder / "disturbed"
        shutil.rmtree(self.work_dir, ignore_errors=True)
        self.rng = random.Random(seed)
        self.damaged_files: dict[str, tuple] = {}  # damaged files of ours
        self.rounds: list[Round] = []
        self.counts: Counter[str] = Counter()

    def round(self, label: str, kill: Kill) -> None:
        """Start the training, kill it, look at what is left, and damage it."""
        kind = f"{kill.name} {'in a' if kill.moment == 'write' else 'at'} {kill.moment}"
        training, one = self._start(kind, reader=kill.reader)
        workers: list[int] = []
        struck = kill.strike(training, self.seconds, workers)
        code = training.wait()
        self._look(one, training)
        if not struck:
            one.wrong.append(f"it ended by itself with exit code {code}")
        elif kill.name == "SIGKILL":
            if code != -kill.number:
                one.wrong.append(f"exit code {code}")
        elif code == 128 + kill.number:
            one.wrong += [f"{one.lost} iterations lost"] if one.lost else []
            one.wrong += ["a traceback"] if "Traceback" in training.text() else []
        elif code != -kill.number or one.done:
            one.wrong.append(f"exit code {code} after iteration {one.done}")
        if not _gone(workers):
            one.wrong.append("a data worker outlives its training")
        self._tell(label, one, f", all its processes: {'yes' if kill.whole_group else 'no'}")
        if kill.damage != "none":
            self._damage(label, kill.damage)

    def finish(self, whole: Path) -> None:
        """Train to the end, and compare with the undisturbed training."""
        training, one = self._start("to the end")
        if code := training.wait():
            one.wrong.append(f"exit code {code}")
        self._look(one, training)
        name = f"iter_{self.task.iterations}.pth"
        if not (self.work_dir / name).is_file():
            one.wrong.append(f"there is no {name}")
        else:
            different = differences(whole / name, self.work_dir / name)
            one.wrong += [f"{len(different)} tensors differ, {different[0]} first"] if different else []
        one.wrong += [f"{left} is left" for left in drafts(self.work_dir)]
        self._tell("end", one)

    def write(self, checkpoint: Path, rounds: int) -> None:
        """Disturb the commands that write files."""
        for name, arguments in commands(self.task, checkpoint).items() if rounds else ():
            one = Round(f"outputs of {name}", base=0, wrong=[*disturb(self.task, arguments, rounds, self.rng)])
            self.rounds.append(one)
            self._tell(f"{rounds} x", one)

    def table(self) -> str:
        """All rounds by kind."""
        rows = ["", f"{'what':<30}{'times':>6}{'most lost':>11}{'wrong':>7}"]
        for kind in sorted({one.kind for one in self.rounds}):
            those = [one for one in self.rounds if one.kind == kind]
            wrong = sum(len(one.wrong) for one in those)
            rows.append(f"{kind:<30}{len(those):>6}{max(one.lost for one in those):>11}{wrong:>7}")
        same = not any(one.wrong for one in self.rounds if one.kind == "to the end")
        rows.append(f"final checkpoint bitwise identical to the undisturbed one: {'yes' if same else 'NO'}")
        return "\n".join(rows)

    def _start(
        self, kind: str, file_limit: int | None = None, reader: Sequence[str] | None = None
    ) -> tuple[Training, Round]:
        found = newest(self.work_dir)
        one = Round(kind, base=found.iteration if found else 0)
        self.rounds.append(one)
        return self.task.start(self.work_dir, file_limit, reader), one

    def _look(self, one: Round, training: Training) -> None:
        """Check what holds after every end of a training."""
        first, last = training.logged()
        found = newest(self.work_dir)
        one.done, one.saved = last, found.iteration if found else 0
        if first and first != one.base + 1:
            one.wrong.append(f"it went on at iteration {first} instead of {one.base + 1}")
        if one.lost > INTERVAL or one.saved < one.base:
            one.wrong.append(f"iteration {one.done or one.base} was done, and only {one.saved} is saved")
        one.wrong += problems(self.work_dir, self.damaged_files)

    def _damage(self, label: str, kind: str) -> None:
        found = newest(self.work_dir)
        damaged, content = damage(kind, self.work_dir, found, self.rng)
        self.damaged_files |= {name: stamp(self.work_dir / name) for name in damaged}
        if kind == "full disk":
            self._fill(label)
        elif content is not None and newest(self.work_dir) is None:
            self._refuse(label, found.path, content)
        else:
            one = Round(kind, base=0)
            self.rounds.append(one)
            self._tell(label, one)

    def _fill(self, label: str) -> None:
        training, one = self._start("full disk", FILE_LIMIT)
        code, text = training.wait(), training.text()
        self._look(one, training)
        if code != 1 or "could not be written" not in text or "Traceback" in text:
            one.wrong.append(f"exit code {code} instead of 1 and a sentence")
        one.wrong += [f"{left} is left" for left in drafts(self.work_dir)]
        self._tell(label, one)

    def _refuse(self, label: str, path: Path, content: bytes) -> None:
        """The only checkpoint is cut off: the training says so, and neither begins anew nor touches the file."""
        one = Round("newest cut off", base=0)
        self.rounds.append(one)
        before = stamp(path)
        training = self.task.start(self.work_dir)
        code = training.wait()
        text = training.text()
        if code != 1 or f"no usable checkpoint in {self.work_dir} (" not in text or f"{path.name} is " not in text:
            one.wrong.append(f"exit code {code} instead of 1 and a sentence")
        if stamp(path) != before:
            one.wrong.append(f"{path.name} was touched")
        path.write_bytes(content)
        self._tell(label, one)

    def _tell(self, label: str, one: Round, more: str = "") -> None:
        went = f"iterations {one.base + 1} to {one.done}, {one.saved} saved" if one.done else "no iteration"
        progress(f"{label}  {one.kind:<28} {went}{more}{''.join(f'  WRONG: {wrong}' for wrong in one.wrong)}")


def _gone(workers: list[int]) -> bool:
    end = time.monotonic() + 10
    while any(map(is_alive, workers)):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def progress(line: str) -> None:
    """Print progress on stderr."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
