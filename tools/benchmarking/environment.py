"""The machine and the versions that a measurement belongs to."""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime, timezone
from importlib import metadata

import torch

_PACKAGES = ("torch", "torchvision", "timm", "mmengine", "mmcv", "mmcv-lite", "mmdet", "localvit_det")

# Variables that change how memory is handed out: on a CPU large maps are paid for in page faults.
_ALLOCATOR = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "THP_MEM_ALLOC_ENABLE")


def describe(device: str) -> dict[str, object]:
    """Collect what someone needs to judge or repeat a measurement on `device` ('cpu' or 'cuda')."""
    found = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        # Of the last minute, before measuring: on a busy machine no number means anything.
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
        "allocator": {name: value for name, value in sorted(os.environ.items()) if name.startswith(_ALLOCATOR)},
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "tf32": torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
    }
    if device == "cuda":
        found["cuda"] = torch.version.cuda
        found["cudnn"] = torch.backends.cudnn.version()
    return found


def headline(environment: dict[str, object]) -> str:
    """The environment in a line, for the head of a table."""
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    allocator = "".join(f", {name}={value}" for name, value in environment.get("allocator", {}).items())
    return (
        f"{environment['device']}, {environment['threads']} threads, load {environment['load']} before; "
        f"Python {environment['python']}, {versions}{allocator}"
    )


def synchronize(device: str) -> None:
    """Wait until the device has done all that was asked of it."""
    if device == "cuda":
        torch.cuda.synchronize()


def _device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
