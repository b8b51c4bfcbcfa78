"""Compare the inhomogeneous convolution with its unfold form: `python -m benchmarks.operators`.

Both are measured forward and backward, at the sizes that a tiny IDynamicDWNet has on an image of 512x512.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from localvit_det.cli import handle_user_errors
from localvit_det.ops import inhomogeneous_conv

from .backbones import TOLERANCES, relative_error
from .measure import allocator_peak, time_interleaved
from .results import Record
from .run import begin, finish_table, make_parser

STAGES = ((96, 128), (192, 64), (384, 32), (768, 16))  # channels, and side of the feature map in tokens
GROUPS, KERNEL = 32, 7


def unfold_form(x: Tensor, kernels: Tensor, kernel_size: int) -> Tensor:
    """Compute the inhomogeneous convolution as its definition reads: unfold all neighbourhoods, weigh, add up.

    Args:
        x: Feature map of shape (B, C, H, W).
        kernels: Kernels of shape (B, G·k², H, W).
        kernel_size: k, odd.
    """
    (batch, channels, height, width), taps = x.shape, kernel_size**2
    groups = kernels.shape[1] // taps
    windows = F.unfold(x, kernel_size, padding=kernel_size // 2)
    windows = windows.view(batch, groups, channels // groups, taps, height, width)
    return (windows * kernels.view(batch, groups, 1, taps, height, width)).sum(3).view_as(x)


# Each gets the memory layout that its network gives it.
FORMS = {"ours": (inhomogeneous_conv, torch.channels_last), "unfold": (unfold_form, torch.contiguous_format)}


def measure(rounds: int, warmup: int, batch: int, device: str, stages: Sequence[tuple[int, int]]) -> list[Record]:
    """Measure both forms at each stage.

    Raises:
        AssertionError: They do not give the same output and gradients.
    """
    records = []
    setting = f"inhomogeneous convolution of a 512x512 image, forward and backward, batch {batch}, {device}"
    for stage, (channels, side) in enumerate(stages, start=1):
        forms = {run: _step(*form, channels, side, batch, device) for run, form in FORMS.items()}
        ours, unfold = (form() for form in forms.values())
        error = relative_error(ours, unfold)
        if not error <= TOLERANCES["fp32"]:
            raise AssertionError(f"stage {stage}: output or gradients differ by {error:.1e} from the unfold form")
        required = sum(tensor.nbytes for tensor in ours)  # output and gradients, which any form has to hold
        for run, samples in zip(forms, time_interleaved(list(forms.values()), rounds, warmup), strict=True):
            peak = allocator_peak(forms[run], device)
            quantities: dict[str, list[float]] = {
                "seconds": samples,
                "peak bytes": [peak],
                "extra bytes": [peak - required],
                "error": [error],
            }
            row = f"stage {stage}: {channels}x{side}x{side}"
            records.append(Record("operator", setting, row, run, "fp32", quantities))
    return records


def _step(
    function: Callable[..., Tensor], layout: torch.memory_format, channels: int, side: int, batch: int, device: str
) -> Callable[[], list[Tensor]]:
    """Return a function that gives the output and the gradients of feature map and kernels."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, count, side, side) for count in (channels, GROUPS * KERNEL**2, channels)]
    x, kernels, gradient = (torch.randn(shape, generator=generator).to(device) for shape in shapes)
    x, kernels = x.contiguous(memory_format=layout).requires_grad_(), kernels.requires_grad_()

    def step() -> list[Tensor]:
        out = function(x, kernels, KERNEL)
        return [out.detach(), *torch.autograd.grad(out, (x, kernels), gradient)]

    return step


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the samples."""
    parser = make_parser(__doc__, "operator")
    parser.add_argument("--batch", type=int, default=1)
    args = parser.parse_args(argv)
    benchmark = begin(args)
    finish_table(args, benchmark, measure(args.rounds, args.warmup, args.batch, args.device, STAGES))


if __name__ == "__main__":
    main()
