"""Single operators beside their textbook form, at the sizes that a network gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from localvit_det.ops import inhomogeneous_conv

from .markdown import markdown_table
from .memory import allocator_peak
from .steps import TOLERANCES, relative_error
from .timing import Quartiles, quartiles, time_interleaved

OPERATORS = ("inhomogeneous",)
# Stages of a tiny IDynamicDWNet on a 512×512 image: channels, and side of the map in tokens.
_STAGES = ((96, 128), (192, 64), (384, 32), (768, 16))
_GROUPS, _KERNEL = 32, 7


@dataclass(frozen=True)
class OperatorResult:
    """Forward and backward of both forms at one stage.

    Attributes:
        latency: Of ours and of the unfold form, in seconds.
        peak_bytes: The most that PyTorch's allocator held beyond the inputs.
        extra_bytes: The same without output and gradients, which any form has to hold.
        error: Largest relative difference of output and gradients between the two.
    """

    stage: int
    channels: int
    side: int
    latency: tuple[Quartiles, Quartiles]
    peak_bytes: tuple[int, int]
    extra_bytes: tuple[int, int]
    error: float

    def record(self) -> dict[str, object]:
        """The result with its ratios, as it stands in the JSON file."""
        ours, unfold = self.latency
        return {
            **asdict(self),
            "speed_to_unfold": unfold.median / ours.median,
            "extra_to_unfold": self.extra_bytes[0] / self.extra_bytes[1],
        }


def unfold_form(x: Tensor, kernels: Tensor, kernel_size: int) -> Tensor:
    """The inhomogeneous convolution as its definition reads: unfold all neighbourhoods, weigh, add up.

    Args:
        x: Map of shape (B, C, H, W).
        kernels: Kernels of shape (B, G·k², H, W).
        kernel_size: k, odd.
    """
    batch, channels, height, width = x.shape
    taps = kernel_size**2
    groups = kernels.shape[1] // taps
    windows = F.unfold(x, kernel_size, padding=kernel_size // 2)
    windows = windows.view(batch, groups, channels // groups, taps, height, width)
    return (windows * kernels.view(batch, groups, 1, taps, height, width)).sum(3).view_as(x)


def measure_inhomogeneous(
    rounds: int, warmup: int, batch: int, device: str, stages: Sequence[tuple[int, int]] = _STAGES
) -> list[OperatorResult]:
    """Measure the inhomogeneous convolution beside its unfold form, in fp32.

    Each gets the memory layout that its network gives it: our map is channels-last, everything else plain.

    Raises:
        AssertionError: The two do not give the same output and gradients.
    """
    results = []
    for stage, (channels, side) in enumerate(stages, start=1):
        forms = []
        for function, memory_format in (
            (inhomogeneous_conv, torch.channels_last),
            (unfold_form, torch.contiguous_format),
        ):
            forms.append(_step(function, channels, side, batch, device, memory_format))
        ours, unfold = forms
        error = relative_error(ours(), unfold())
        if not error <= TOLERANCES["fp32"]:
            raise AssertionError(f"stage {stage}: output or gradients differ by {error:.1e} from the unfold form")
        samples = time_interleaved(forms, rounds, warmup, device)
        peaks = [allocator_peak(form, device) for form in forms]
        required = sum(tensor.nbytes for tensor in ours())
        results.append(
            OperatorResult(
                stage,
                channels,
                side,
                tuple(quartiles(times) for times in samples),
                tuple(peaks),
                tuple(peak - required for peak in peaks),
                error,
            )
        )
    return results


def operator_table(results: Sequence[OperatorResult], batch: int, device: str) -> str:
    """A table in Markdown."""
    caption = f"Inhomogeneous convolution, forward and backward, batch {batch}, fp32, {device}; a 512x512 image"
    head = ["stage", "map", "ours ms (quartiles)", "unfold ms (quartiles)", "speed ÷ unfold"]
    head += ["ours peak / extra MiB", "unfold peak / extra MiB", "extra ÷ unfold"]
    rows = []
    for result in results:
        record = result.record()
        times = [f"{t.median * 1e3:.1f} ({t.low * 1e3:.1f} to {t.high * 1e3:.1f})" for t in result.latency]
        sizes = [
            f"{peak / 2**20:.1f} / {extra / 2**20:.1f}"
            for peak, extra in zip(result.peak_bytes, result.extra_bytes, strict=True)
        ]
        speed, extra = f"{record['speed_to_unfold']:.2f}", f"{record['extra_to_unfold']:.3f}"
        rows.append([str(result.stage), f"{result.channels}x{result.side}x{result.side}", *times, speed, *sizes, extra])
    return "\n\n".join([caption, markdown_table(head, rows, left=2)])


def _step(
    function: Callable[[Tensor, Tensor, int], Tensor],
    channels: int,
    side: int,
    batch: int,
    device: str,
    memory_format: torch.memory_format,
) -> Callable[[], list[Tensor]]:
    """A function that returns the output and the gradients of map and kernels."""
    generator = torch.Generator().manual_seed(0)

    def random(count: int) -> Tensor:
        return torch.randn(batch, count, side, side, generator=generator).to(device)

    x = random(channels).contiguous(memory_format=memory_format).requires_grad_()
    kernels = random(_GROUPS * _KERNEL**2).requires_grad_()
    gradient = random(channels)

    def step() -> list[Tensor]:
        out = function(x, kernels, _KERNEL)
        return [out.detach(), *torch.autograd.grad(out, (x, kernels), gradient)]

    return step
