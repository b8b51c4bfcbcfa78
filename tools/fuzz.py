"""Read files that were changed at random: each has to end in a result or in a sentence of this package.

    python tools/fuzz.py --seconds 60                      # all targets, a minute each
    python tools/fuzz.py yaml --seed 7 --count 2000        # the same inputs each time
    python tools/fuzz.py image --input work_dirs/fuzz/...  # one that failed, again

A finding is another exception, the end of the process, more than 2 s of a CPU, or more than 200 MB for one input. Each
kind is counted, and its first input is saved with its traceback. Inputs are a function of seed, target and number, and
run in a fork, so that the fuzzer outlives what they do. Linux and macOS only.
"""

import _process  # noqa: F401 - settings that must stand before PyTorch starts

# isort: split
import argparse
import contextlib
import faulthandler
import gc
import logging
import mmap
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import IO

import cv2
import torch

import localvit_det  # noqa: F401 - before anything that needs mmcv.ops
from fuzzing.targets import OUR_ERRORS, TARGETS, Target

CPU_SECONDS, WALL_SECONDS = 2, 60  # for one input
MEGABYTES, ADDRESSES = 200, 2 << 30  # that one input may take, and bytes that a process may reserve
_OWN_FAULT = 70  # exit code: not what is tried has failed, but this file
_UNIT = 1024 if sys.platform == "linux" else 1  # bytes of ru_maxrss


@dataclass
class Report:
    """What came of one target."""

    inputs: int = 0
    read: int = 0
    seconds: float = 0.0
    findings: Counter[str] = field(default_factory=Counter)


def fuzz(
    name: str, folder: Path, seed: int = 0, count: int = sys.maxsize, seconds: float = 1e9, target: Target | None = None
) -> Report:
    """Read changed files of one target.

    Args:
        folder: Where inputs that fail are saved.
        count: At most so many inputs.
        seconds: At most so long.
        target: The one of that name by default.
    """
    target = target or TARGETS[name]
    report, start = Report(), time.monotonic()
    with tempfile.TemporaryDirectory() as place, _silent(), mmap.mmap(-1, 4096) as shared:
        work = Path(place)
        seeds = target.prepare(work)
        for number, (suffix, content) in enumerate(seeds):  # so that what is imported late does not count
            file = work / f"valid{number}{suffix}"
            file.write_bytes(content)
            with contextlib.suppress(*OUR_ERRORS):
                target.read(work, file)
        while report.inputs < count and time.monotonic() - start < seconds:
            shared[:] = bytes(4096)
            child = os.fork()
            if not child:
                _run(name, target, work, seeds, (seed, report.inputs, count, start + seconds), shared)
            status = os.waitpid(child, 0)[1]
            number, read = (int.from_bytes(shared[at : at + 8], "big") for at in (0, 8))
            kind = shared[16:].rstrip(b"\0").decode()
            if os.waitstatus_to_exitcode(status) == _OWN_FAULT:
                raise RuntimeError((work / "trace.txt").read_text())
            report.read += read
            report.inputs = number + 1
            if status or kind:
                kind = kind or _ending(status)
                report.findings[kind] += 1
                if report.findings[kind] == 1:
                    _save(folder, work, f"{name}-{seed}-{number}", kind)
    report.seconds = time.monotonic() - start
    return report


def _run(
    name: str, target: Target, work: Path, seeds: list, task: tuple[int, int, int, float], shared: mmap.mmap
) -> None:
    """Read one input after the other until one fails; never returns."""
    gc.freeze()  # what is there is not collected anew after each input
    with (work / "trace.txt").open("w") as trace:
        faulthandler.enable(trace)
        faulthandler.register(signal.SIGPROF, trace, chain=True)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        if sys.platform == "linux":
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESSES,) * 2)
        try:
            _read_inputs(name, target, work, seeds, task, shared, trace)
            os._exit(0)
        except BaseException:
            traceback.print_exc(file=trace)
        finally:
            trace.flush()
            os._exit(_OWN_FAULT)


def _read_inputs(
    name: str, target: Target, work: Path, seeds: list, task: tuple[int, int, int, float], shared: mmap.mmap, trace: IO
) -> None:
    seed, first, count, until = task
    others, read = [content for _, content in seeds], 0
    for number in range(first, count):
        if number > first and time.monotonic() > until:
            return
        shared[:8] = number.to_bytes(8, "big")
        random = Random(f"{seed} {name} {number}")
        suffix, content = random.choice(seeds)
        for _ in range(random.choice((1, 1, 2, 4))):
            content = target.change(random, suffix, content, others)
        file = work / f"input{suffix}"
        file.write_bytes(content)
        outcome = _outcome(target, work, file, trace)
        if outcome:
            shared[16:] = outcome.encode(errors="replace")[:4000].ljust(4080, b"\0")
            trace.flush()
            return
        read += outcome is None
        shared[8:16] = read.to_bytes(8, "big")


def _outcome(target: Target, work: Path, file: Path, trace: IO | None = None) -> str | None:
    """Read one file: None for a result, '' for one of our errors, else the kind of the finding."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if trace:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    try:
        target.read(work, file)
        result = None
    except OUR_ERRORS as error:
        result = f"sentence of several lines: {type(error).__name__}" if "\n" in str(error) else ""
    except (Exception, SystemExit) as error:
        if not trace:
            raise
        traceback.print_exc(file=trace)
        result = _kind(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * _UNIT >> 20
    return f"more than {MEGABYTES} MB" if trace and not result and taken > MEGABYTES else result


def _kind(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "localvit_det" in Path(frame.filename).parts] or list(frames)
    last = own[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}:{last.name}"


def _ending(status: int) -> str:
    number = os.waitstatus_to_exitcode(status)
    if number == -signal.SIGPROF:
        return f"more than {CPU_SECONDS} s of a CPU"
    if number == -signal.SIGALRM:
        return f"waits for more than {WALL_SECONDS} s"
    return f"ended by {signal.Signals(-number).name}" if number < 0 else f"exit code {number}"


def _save(folder: Path, work: Path, name: str, kind: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    newest = max(work.glob("input.*"), key=lambda file: file.stat().st_mtime_ns)
    shutil.copyfile(newest, folder / f"{name}{newest.suffix}")
    (folder / f"{name}.txt").write_text(f"{kind}\n{(work / 'trace.txt').read_text(errors='replace')}")


class _silent:
    """Nothing that decoders and loggers print, as long as inputs are read."""

    def __enter__(self) -> None:
        logging.disable(logging.CRITICAL)
        warnings.simplefilter("ignore")
        cv2.setNumThreads(0)
        torch.set_num_threads(1)
        sys.stdout.flush()
        self._streams = [os.dup(1), os.dup(2)]
        with open(os.devnull, "w") as nothing:
            for stream in (1, 2):
                os.dup2(nothing.fileno(), stream)

    def __exit__(self, *error: object) -> None:
        sys.stdout.flush()
        for stream, kept in enumerate(self._streams, 1):
            os.dup2(kept, stream)
            os.close(kept)
        logging.disable(logging.NOTSET)


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz targets one after the other; 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--count", type=int, default=sys.maxsize, help="inputs of each target")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/fuzz"), help="where inputs that fail are saved")
    parser.add_argument("--input", type=Path, help="read this file alone, and show what comes of it")
    args = parser.parse_args(argv)
    if unknown := set(args.targets) - set(TARGETS):
        parser.error(f"no target {', '.join(unknown)}: there are {', '.join(TARGETS)}")
    if args.input:
        with tempfile.TemporaryDirectory() as place:
            file = Path(place, f"input{args.input.suffix}")
            target = TARGETS[args.targets[0]]
            target.prepare(Path(place))
            shutil.copyfile(args.input, file)
            target.read(Path(place), file)
        return 0
    found = 0
    for name in args.targets or TARGETS:
        report = fuzz(name, args.out, args.seed, args.count, args.seconds)
        print(
            f"{name} (seed {args.seed}): {report.inputs} inputs in {report.seconds:.0f} s, {report.read} of them read"
        )
        for kind, count in report.findings.most_common():
            print(f"  {count} x {kind}")
        found += report.findings.total()
    if found:
        print(f"Inputs and tracebacks: {args.out}")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
