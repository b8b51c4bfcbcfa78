"""Time in interleaved rounds, and memory: what a forward pass keeps, and the peaks of a process and of an allocator."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar
from unittest import mock

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import timer  # waits for the accelerator, too

Result = TypeVar("Result")


def time_interleaved(runs: Sequence[Callable[[], object]], rounds: int, warmup: int = 1) -> list[list[float]]:
    """Time several functions in turn, once each round, so that a slow minute of the machine hits all alike.

    `torch.utils.benchmark.Timer` times one function after the other, and runs each twice before. The order moves on by
    one each round: who runs after whom makes a difference to caches and clocks.

    Returns:
        The samples of each function, in seconds.
    """
    samples: list[list[float]] = [[] for _ in runs]
    for number in range(-warmup, rounds):
        for place in range(len(runs)):
            index = (place + number) % len(runs)
            start = timer()
            runs[index]()
            seconds = timer() - start
            if number >= 0:
                samples[index].append(seconds)
    return samples


def held_bytes(forward: Callable[[], list[Tensor]], device: str = "cpu") -> int:
    """Count the bytes that a forward pass leaves behind: what it keeps for backward, and its outputs.

    Counted where memory is given out, so that nothing a network does to keep less (activation checkpoints,
    recomputing) escapes or is counted twice. Weights were there before, and do not count.

    Args:
        forward: Returns the outputs, whose graph keeps the rest alive.
    """
    outputs: list[Tensor] = []
    return _allocated(lambda: outputs.extend(forward()), device)[1]


def allocator_peak(run: Callable[[], object], device: str = "cpu") -> int:
    """Return the most bytes that PyTorch's allocator held at once during `run`, beyond what it held before.

    Scratch memory that oneDNN takes by itself does not pass the allocator and is not seen.
    """
    return _allocated(run, device)[0]


def process_peak(run: Callable[[], object], device: str = "cpu") -> tuple[int, int] | None:
    """Return bytes before `run`, and the most during it, of the resident process or of PyTorch's allocator on a GPU.

    On a CPU it is meaningful only in a process of its own, and known on Linux only.
    """
    if device == "cuda":
        start = torch.cuda.memory_allocated()
        return start, start + _allocated(run, device)[0]
    if sys.platform != "linux":
        run()
        return None
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again here: building the network does not count
    start = resident("VmRSS")
    run()
    return start, resident("VmHWM")


def in_fresh_process(function: Callable[..., Result], *arguments: object, **environment: str) -> Result | None:
    """Call a function in a process that has done nothing else; None if that died, as for want of memory.

    Args:
        environment: Variables that are set for it alone.
    """
    try:
        with mock.patch.dict(os.environ, environment), ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()
    except BrokenProcessPool:
        return None


def _allocated(run: Callable[[], object], device: str) -> tuple[int, int]:
    """Return bytes that PyTorch's allocator gave out: the most at once during `run`, and those left after it."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - start, torch.cuda.memory_allocated() - start
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it logs every start and stop
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    steps = [(event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"]
    held = most = 0
    for _, change in sorted(steps, key=lambda step: step[0]):
        held += change
        most = max(most, held)
    return most, held


def resident(name: str = "VmHWM") -> int:
    """Return the bytes of this process by their name in /proc (Linux): the most so far, or those of now ("VmRSS")."""
    # Not getrusage: its peak begins with what the parent held when it forked.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
