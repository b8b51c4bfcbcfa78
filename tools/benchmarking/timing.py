"""Timing in interleaved rounds, so that a slow minute of the machine hits every row alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .environment import synchronize


@dataclass(frozen=True)
class Quartiles:
    """Median and quartiles of a latency, in seconds."""

    median: float
    low: float
    high: float


def quartiles(samples: Sequence[float]) -> Quartiles:
    """Summarise samples; quartiles are interpolated linearly."""
    low, median, high = np.percentile(samples, (25, 50, 75))
    return Quartiles(float(median), float(low), float(high))


def time_interleaved(
    runs: Sequence[Callable[[], object]],
    rounds: int,
    warmup: int = 1,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Time several functions in turn, once each round.

    The order moves on by one each round: who runs after whom makes a difference to caches and clocks.

    Args:
        runs: Functions to time.
        rounds: Samples of each.
        warmup: Rounds before those that count.
        device: 'cpu' or 'cuda'.
        clock: What is read before and after each, in seconds.

    Returns:
        The samples of each function, in seconds.
    """
    samples: list[list[float]] = [[] for _ in runs]
    for number in range(-warmup, rounds):
        for place in range(len(runs)):
            index = (place + number) % len(runs)
            synchronize(device)
            start = clock()
            runs[index]()
            synchronize(device)
            if number >= 0:
                samples[index].append(clock() - start)
    return samples
