"""Runs the comparison of backbones: check, count, time in turn, weigh."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from localvit_det.errors import UserError

from .memory import Peak, in_fresh_process, measure_peak
from .results import Result, Table
from .roofline import Gemm
from .rows import Row
from .steps import TOLERANCES, Reference, Setting, Step, Variant, make_reference, relative_error
from .timing import time_interleaved


@dataclass(frozen=True)
class Options:
    """What is measured, for every row.

    Attributes:
        sizes: Heights and widths of the images.
        rounds: Timed rounds.
        warmup: Rounds before them.
        fuse: Fold BatchNorm for inference where a network offers it.
        memory: Measure the peak of memory, in a fresh process for each variant.
    """

    modes: Sequence[str] = ("inference", "training")
    sizes: Sequence[tuple[int, int]] = ((896, 1344), (800, 1333), (512, 512))
    batch: int = 1
    dtypes: Sequence[str] = ("fp32",)
    executions: Sequence[str] = ("eager",)
    device: str = "cpu"
    rounds: int = 7
    warmup: int = 1
    fuse: bool = True
    memory: bool = True


def measure_backbones(rows: Sequence[Row], options: Options, tell: Callable[[str], None]) -> Iterator[Table]:
    """Measure all rows at each mode and size.

    Everything of one table is timed in the same rounds, so all its numbers can be compared with each other.

    Args:
        tell: Is given a line about each step of the work.
    """
    # What is called fp32 is to be fp32 on every device.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if "compile" in options.executions:
        # Families share code, and the compiler counts its versions by code, not by network.
        torch._dynamo.config.cache_size_limit = 64 * len(rows)
    variants = [Variant(row, dtype, how) for row in rows for dtype in options.dtypes for how in options.executions]
    for mode in options.modes:
        for size in options.sizes:
            setting = Setting(mode, tuple(size), options.batch, options.device)
            yield _measure_table(variants, setting, options, tell)


def _measure_table(
    variants: Sequence[Variant], setting: Setting, options: Options, tell: Callable[[str], None]
) -> Table:
    title = f"{setting.mode} {setting.size[0]}x{setting.size[1]}"
    results = [Result(v.row.label, v.dtype, v.execution) for v in variants if _applies(v, setting)]
    variants = [v for v in variants if _applies(v, setting)]
    references: dict[Row, Reference] = {}
    steps: list[Step | None] = []
    for variant, result in zip(variants, results, strict=True):
        tell(f"{title}: checking {result.row} {result.dtype} {result.execution}")
        steps.append(_checked_step(variant, setting, options.fuse, references, result))
    references.clear()

    ready = [(step, result) for step, result in zip(steps, results, strict=True) if step is not None]
    gemms = {dtype: Gemm(dtype, setting.device) for dtype in options.dtypes}
    tell(f"{title}: timing {len(ready)} rows, {options.rounds} rounds")
    runs = [*(step for step, _ in ready), *gemms.values()]
    samples = time_interleaved(runs, options.rounds, options.warmup, setting.device)
    for (_, result), times in zip(ready, samples, strict=False):
        result.samples = times
    table = Table(
        setting.mode,
        setting.size,
        setting.batch,
        setting.device,
        results,
        dict(zip(gemms, samples[len(ready) :], strict=True)),
        next(iter(gemms.values())).multiply_adds,
    )

    # Give the machine back before other processes are weighed on it.
    measured = [step is not None for step in steps]
    del runs, ready, steps, gemms
    gc.collect()
    if setting.device == "cuda":
        torch.cuda.empty_cache()
    for variant, result, works in zip(variants, results, measured, strict=True):
        if options.memory and works:
            tell(f"{title}: memory of {result.row} {result.dtype} {result.execution}")
            result.memory = in_fresh_process(peak_of_step, variant, setting, options.fuse, torch.get_num_threads())
            result.note = result.note or (
                "" if result.memory else "memory: the process ended without a result (out of memory?)"
            )
    return table


def peak_of_step(variant: Variant, setting: Setting, fuse: bool, threads: int) -> Peak:
    """Memory of one step; to be called in a fresh process."""
    torch.set_num_threads(threads)
    step = Step(variant, setting, fuse)
    return measure_peak(step, setting.device, warmup=variant.execution == "compile")


def _applies(variant: Variant, setting: Setting) -> bool:
    """Recomputing activations is about backward only."""
    return setting.mode == "training" or (variant.row.recompute and not variant.row.with_cp)


def _checked_step(
    variant: Variant, setting: Setting, fuse: bool, references: dict[Row, Reference], result: Result
) -> Step | None:
    """Make a step and compare its outputs with plain eager fp32; None where it is not to be timed."""
    plain = replace(variant.row, channels_last=False, with_cp=False, recompute=True)
    try:
        reference = references.get(plain) or references.setdefault(plain, make_reference(plain, setting))
        result.multiply_adds, result.parameters = reference.multiply_adds, reference.parameters
        step = Step(variant, setting, fuse)
        result.error = relative_error(step.checkable_outputs(), reference.outputs)
        result.tolerance = TOLERANCES[variant.dtype]
        if not result.error <= result.tolerance:
            result.note = f"not timed: outputs differ by {result.error:.1e} from its own eager fp32"
            return None
        if step.training:
            result.saved_bytes = step.saved_bytes()
        return step
    except UserError:
        raise
    # A network of others may fail in any way, at some size or mode; the other rows are still worth measuring.
    except Exception as error:
        result.note = f"fails: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
        return None
