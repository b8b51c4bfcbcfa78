"""Looks at the installation and the machine, as `read_doctor` says."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    *("localvit_det", "torch", "torchvision", "mmdet", "mmengine", "mmcv", "mmcv-lite"),
    *("onedl-mmdetection", "onedl-mmengine", "onedl-mmcv", "numpy", "opencv-python"),
    *("opencv-python-headless", "pycocotools", "faster-coco-eval", "einops", "safetensors", "setuptools"),
    *("onnx", "onnxruntime", "openvino", "nncf"),
)
SAME_FOLDER = {
    "mmcv": ("mmcv", "mmcv-lite", "onedl-mmcv"),
    "mmengine": ("mmengine", "onedl-mmengine"),
    "mmdet": ("mmdet", "onedl-mmdetection"),
}
# What changes speed or results without being seen.
VARIABLES = (
    *("OMP_", "GOMP_", "MKL_", "KMP_", "MALLOC_", "LD_PRELOAD"),
    *("CUDA_VISIBLE", "LOCALVIT_", "TORCH_", "PYTORCH_"),
)
GIB = 1 << 30
ENOUGH_SHARED = 1 * GIB  # what data workers hand over lies there: eight batches of a few images of 800×1333
ENOUGH_DISK = 2 * GIB  # a few checkpoints
ENOUGH_MEMORY = 4 * GIB
Facts = dict[str, dict[str, Any]]


def read_doctor(argv: Sequence[str] | None) -> argparse.Namespace:
    """Looks at the installation and the machine: `localvit doctor`.

    Names what does not fit, each with the command that fixes it; the exit code is 1 then. Its output belongs into bug
    reports: it holds versions, hardware and settings, and no paths.
    """
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=inspect.getdoc(read_doctor), formatter_class=kind, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="write everything as JSON")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, look, report."""
    args = read_doctor(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        facts, complaints = examine()
    if args.json:
        sys.stdout.write(json.dumps({**facts, "complaints": complaints}, indent=1) + "\n")
    else:
        for section, entries in facts.items():
            if entries:
                sys.stdout.write(f"{section}\n")
            for name, value in entries.items():
                shown = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
                sys.stdout.write(f"  {name}: {shown}\n")
        sys.stdout.write("\n" + ("".join(f"fix: {sentence}\n" for sentence in complaints) or "Everything fits.\n"))
    if complaints:
        raise SystemExit(1)


def examine() -> tuple[Facts, list[str]]:
    """Return facts by section and name, and complaints: sentences with the command that fixes each.

    Works where nothing can be imported.
    """
    facts: Facts = {"versions": {"python": platform.python_version(), **_versions()}}
    complaints = list(_version_complaints(facts["versions"]))
    facts["library"], found = _library()
    complaints += found
    facts["operators"] = _operators() if facts["library"]["imports"] else {}
    facts["machine"], found = _machine()
    complaints += found
    facts["PyTorch"], found = _pytorch()
    complaints += found
    # A path may hold its owner's name: that the variable is set is what counts.
    facts["environment"] = {
        name: "(a path)" if "/" in value or "\\" in value else value
        for name, value in sorted(os.environ.items())
        if name.startswith(VARIABLES)
    }
    return facts, complaints


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _version_complaints(versions: dict[str, str]) -> Iterator[str]:
    for module, names in SAME_FOLDER.items():
        installed = [name for name in names if name in versions]
        if len(installed) > 1:
            yield (
                f"{' and '.join(installed)} are installed together and write the same folder {module}: run "
                f"`pip uninstall -y {' '.join(installed)}`, then install the one that you want again."
            )
    setuptools = versions.get("setuptools")
    if "onedl-mmengine" not in versions and (setuptools is None or int(setuptools.partition(".")[0]) >= 82):
        lacks = "is missing" if setuptools is None else f"{setuptools} has no pkg_resources"
        yield f"setuptools {lacks}, with which MMEngine finds `mmdet::` configs: run `pip install 'setuptools<82'`."
    if "pycocotools" not in versions:
        yield "pycocotools is missing, without which there is no COCO metric: run `pip install pycocotools`."


def _library() -> tuple[dict[str, Any], list[str]]:
    """Return whether the library can be imported, and how it is installed."""
    facts: dict[str, Any] = {"imports": True}
    try:
        importlib.import_module("localvit_det").register()
    except Exception as error:  # that nothing stops this report is its purpose
        facts["imports"] = False
        sentence = " ".join(str(error).split())
        known = type(error).__name__ == "RequirementError"
        return facts, [sentence if known else f"localvit_det cannot be imported ({type(error).__name__}: {sentence})."]
    from localvit_det.config_names import config_folder, config_names

    facts["installed"] = "in the package" if ".mim" in config_folder().parts else "in place, from a checkout"
    facts["configs"] = len(config_names())
    if not facts["configs"]:
        return facts, ["The configs are missing: run `pip install --force-reinstall --no-deps` with the package again."]
    return facts, []


def _operators() -> dict[str, str]:
    """Return where the operators of MMCV come from."""
    from localvit_det.requirements import has_compiled_operators

    if has_compiled_operators():
        return {"mmcv": "compiled", "all operators": "mmcv"}
    return {
        "mmcv": "without compiled operators",
        "nms": "torchvision",
        "soft-nms": "localvit_det, NumPy",
        "RoIAlign": "localvit_det on CPUs, torchvision on GPUs",
        "focal loss": "localvit_det, PyTorch",
        "others": "none: deformable convolutions and the like need a compiled mmcv",
    }


def _machine() -> tuple[dict[str, Any], list[str]]:
    """Return processors, memory, disk."""
    cores = _cores()
    facts: dict[str, Any] = {"system": platform.platform(), "processor": _processor()}
    facts["cores"] = f"{cores} of {os.cpu_count()}" if cores != os.cpu_count() else cores
    complaints = []
    if (quota := _cpu_quota()) is not None:
        facts["cores allowed by the container"] = quota
    total, free = _memory()
    if total is not None and free is not None:
        facts["memory"] = f"{_gib(free)} free of {_gib(total)}"
        if free < ENOUGH_MEMORY:
            complaints.append(
                f"Only {_gib(free)} of memory is free: end other programs, or train with less by "
                "`--cfg-options model.backbone.with_cp=True train_dataloader.batch_size=1`."
            )
    for name, folder in (("disk here", Path.cwd()), ("disk of temporary files", Path(tempfile.gettempdir()))):
        usage = shutil.disk_usage(folder)
        facts[name] = f"{_gib(usage.free)} free of {_gib(usage.total)}"
        if usage.free < ENOUGH_DISK:
            complaints.append(
                f"Only {_gib(usage.free)} is free on the {name}: make room, or write elsewhere by `--work-dir`"
                + (" and the variable TMPDIR." if "temporary" in name else ".")
            )
    shared = Path("/dev/shm")
    if shared.is_dir():
        usage = shutil.disk_usage(shared)
        facts["shared memory"] = f"{_gib(usage.free)} free of {_gib(usage.total)}"
        if usage.free < ENOUGH_SHARED:
            complaints.append(
                f"Only {_gib(usage.free)} of shared memory is free, in which data workers hand over images: start the "
                "container with `--shm-size=8g`, or train with `--cfg-options train_dataloader.num_workers=0 "
                "train_dataloader.persistent_workers=False`."
            )
    return facts, complaints


def _pytorch() -> tuple[dict[str, Any], list[str]]:
    """Return threads and devices."""
    try:
        import torch
    except (ImportError, OSError):
        return {}, []  # the library's own complaint says it
    facts: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "built for": f"CUDA {torch.version.cuda}" if torch.version.cuda else "ROCm" if torch.version.hip else "CPUs",
    }
    complaints = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            of = torch.cuda.get_device_properties(index)
            free, total = torch.cuda.mem_get_info(index)
            facts[f"GPU {index}"] = f"{of.name}, {of.major}.{of.minor}, {_gib(free)} free of {_gib(total)}"
    else:
        facts["GPU"] = "none that PyTorch can use"
        if shutil.which("nvidia-smi"):
            complaints.append(
                f"There is an NVIDIA driver, but torch {torch.__version__} finds no GPU: see `nvidia-smi`, and install "
                "a build of PyTorch for this driver (pytorch.org/get-started), or set CUDA_VISIBLE_DEVICES right."
            )
    cores = _cores()
    if cores and torch.get_num_threads() > cores:
        complaints.append(
            f"PyTorch starts {torch.get_num_threads()} threads on {cores} cores, which slows it down: set "
            f"`export OMP_NUM_THREADS={cores}`."
        )
    return facts, complaints


def _cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _processor() -> str:
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _memory() -> tuple[int | None, int | None]:
    """Return bytes in all and free, as the container allows it; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None, None
    sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    total, free = sizes["MemTotal"], sizes.get("MemAvailable", sizes["MemFree"])
    limit, used = _number("/sys/fs/cgroup/memory.max"), _number("/sys/fs/cgroup/memory.current")
    if limit is not None and limit < total:
        total, free = limit, min(free, limit - (used or 0))
    return total, free


def _cpu_quota() -> float | None:
    """Return the cores that the container may use, None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return round(int(quota) / int(period), 2)
    except (OSError, ValueError):
        return None


def _number(file: str) -> int | None:
    try:
        return int(Path(file).read_text())
    except (OSError, ValueError):
        return None


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
