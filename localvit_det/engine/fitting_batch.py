"""`--batch auto`: the largest batch that fits into memory, from dry runs with one and two images."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence

import torch
from mmengine.logging import print_log

from ..errors import ConfigError

_SHARE = 0.7  # of the memory: batches differ in their images and objects
_MOST = 16  # images: the rates of recipes were tried up to there
_LEAST = 0.01  # GiB that an image takes, as dry runs print it


def fitting_batch(argv: Sequence[str]) -> int:
    """Measure what a training takes, in processes of their own, and return the batch that fits on this device.

    Args:
        argv: The arguments of `localvit train`, without the batch.

    Raises:
        ConfigError: A dry run fails, or one of several processes asks.
    """
    if os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1")) != "1":
        raise ConfigError("batch=auto measures in one process: give a number to a training in several.")
    one, two = (_peak(argv, size) for size in (1, 2))
    image = max(two - one, _LEAST)
    if torch.cuda.is_available():
        there = torch.cuda.mem_get_info()[0]
    else:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = _SHARE * there / 2**30
    batch = int(max(1, min(_MOST, (free - one) / image + 1)))
    print_log(
        f"batch=auto: {batch}, at {image:.2f} GiB for each image and {max(one - image, 0):.2f} GiB for the rest, in "
        f"{_SHARE:.0%} of {there / 2**30:.1f} GiB.",
        "current",
    )
    return batch


def _peak(argv: Sequence[str], size: int) -> float:
    command = [sys.executable, "-m", "localvit", "train", *argv, "--dry-run", "--batch", str(size)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    found = re.search(r"([\d.]+) GiB of memory", done.stdout)
    if done.returncode or found is None:
        reason = (done.stderr.strip().splitlines() or ["no memory was measured"])[-1]
        raise ConfigError(f"batch=auto: a dry run with {size} images fails ({reason}): correct that, or give a number.")
    return float(found[1])
