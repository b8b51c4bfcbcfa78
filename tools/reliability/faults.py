"""What is done to a training: when it is killed and how, and what happens to its files afterwards."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from localvit_det.checkpoint.search import POINTER, Found

from .checks import drafts
from .training import INTERVAL, Training

MOMENTS = {"start": 3, "iteration": 8, "write": 9}  # and how often, of twenty
# The signal, and the reader of the output (see `Task.start`).
KILLS: dict[str, tuple[int, Sequence[str] | None]] = {
    "SIGKILL": (signal.SIGKILL, None),
    "SIGTERM": (signal.SIGTERM, None),
    "closed terminal": (signal.SIGHUP, ()),
    "Ctrl-C": (signal.SIGINT, ()),
    "Ctrl-C under tee": (signal.SIGINT, ("tee", "/dev/null")),
    "Ctrl-C under head": (signal.SIGINT, ("head", "-1")),
}
_ODDS = (9, 4, 3, 1, 2, 1)
DAMAGES = {
    "none": 9,
    "no pointer": 2,
    "empty pointer": 1,
    "pointer elsewhere": 1,
    "torn newer file": 2,
    "left draft": 1,
    "newest cut off": 2,
    "full disk": 2,
}


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        moment: 'start' before the first iteration, 'iteration' anywhere, 'write' while a checkpoint is written.
        after: Seconds after the start; iterations of this process; or writes, before the one that is hit.
        further: A share of an iteration, or of 20 ms in a write, that passes before the signal.
        name: Of `KILLS`.
        whole_group: A signal goes to the data workers, too; Ctrl-C always does.
        damage: What is done to the files before the next start.
    """

    moment: str
    after: float
    further: float
    name: str
    whole_group: bool
    damage: str

    @property
    def number(self) -> int:
        """The signal's number."""
        return int(KILLS[self.name][0])

    @property
    def reader(self) -> Sequence[str] | None:
        """What reads the output."""
        return KILLS[self.name][1]

    def strike(self, training: Training, seconds: float, workers: list[int]) -> bool:
        """Wait for the moment and send the signal; return False where the training has ended before.

        Args:
            seconds: Of an iteration, as measured.
            workers: Takes the ids of the processes that the training had.
        """
        if self.moment == "start":
            reached = training.until(lambda: training.seconds() >= self.after)
        elif self.moment == "iteration":
            first: list[int] = []

            def passed() -> bool:
                if (done := training.done()) and not first:
                    first.append(done)
                return bool(first) and done - first[0] >= self.after

            reached = training.until(passed)
            time.sleep(self.further * seconds)
        else:
            seen: set[str] = set()

            def writing() -> bool:
                there = drafts(training.work_dir)
                seen.update(name for name in there if name.endswith(f".pth.{training.pid}.tmp"))
                return len(seen) > self.after

            reached = training.until(writing, pause=0.0005)
            time.sleep(self.further * 0.02)
        workers += training.workers()
        if reached:
            self._hit(training)
        return reached

    def _hit(self, training: Training) -> None:
        if self.reader is None:
            training.kill(self.number, self.whole_group)
        elif self.number == signal.SIGHUP:
            training.close_terminal()  # the system sends the signal
        else:
            training.type(b"\x03")


def draw_kills(count: int, seed: int, start_up: float) -> list[Kill]:
    """Draw kills; the same ones for the same arguments.

    Args:
        start_up: Seconds from a start to the first iteration, as measured.
    """
    rng = random.Random(seed)
    kills = []
    for moment in _spread(rng, MOMENTS, count):
        after = (
            rng.uniform(0, start_up) if moment == "start" else rng.choice((0, 1, 2) if moment != "write" else (0, 1))
        )
        name = rng.choices(list(KILLS), _ODDS)[0]
        damage = rng.choices(list(DAMAGES), list(DAMAGES.values()))[0]
        kills.append(Kill(moment, after, rng.random(), name, rng.random() < 0.5, damage))
    return kills


def _spread(rng: random.Random, odds: dict[str, int], count: int) -> Iterator[str]:
    """Draw each as often as it should be, in any order."""
    deck: list[str] = []
    for _ in range(count):
        if not deck:
            deck = rng.sample([name for name, often in odds.items() for _ in range(often)], sum(odds.values()))
        yield deck.pop()


def damage(kind: str, work_dir: Path, newest: Found | None, rng: random.Random) -> tuple[set[str], bytes | None]:
    """Damage files of a training that does not run.

    Args:
        kind: One of `DAMAGES` except for 'full disk', which is a matter of the next process.

    Returns:
        Names of the files that are damaged now, and what the newest checkpoint held if it is one of them.
    """
    pointer = work_dir / POINTER
    if kind == "no pointer":
        with suppress(FileNotFoundError):
            pointer.unlink()
    elif kind == "empty pointer":
        pointer.write_bytes(b"")
    elif kind == "pointer elsewhere":
        pointer.write_text("/nowhere/epoch_99.pth")
    elif kind == "left draft":
        (work_dir / ".iter_6.pth.99999.tmp").write_bytes(b"half a checkpoint")
    elif newest is not None and kind in ("torn newer file", "newest cut off"):
        content = newest.path.read_bytes()
        half = content[: rng.choice((0, len(content) // 2, len(content) - 1))]
        if kind == "newest cut off":
            newest.path.write_bytes(half)
            return {newest.path.name}, content
        newer = work_dir / f"iter_{newest.iteration + INTERVAL - newest.iteration % INTERVAL}.pth"
        newer.write_bytes(half)
        return {newer.name}, None
    return set(), None
