"""How far activations and gradients are from the largest number of fp16: `python -m benchmarks.ranges ROW ...`.

Found in fp32, where nothing overflows. A network first learns to classify synthetic shapes, so that its weights and
the statistics of its norms are those of a training; then the largest output of each operator is kept, and the largest
gradient of each layer's inputs. Gradients are those of the mean loss, without a scale: `largest scale` is what
PyTorch's scaler, which starts at 2^16 and adapts, may reach before one overflows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from localvit_det.cli import handle_user_errors
from localvit_det.datasets.synthetic_shapes import CLASSES, draw_image

from .backbones import Row, parse_row
from .results import Record, markdown_table, write
from .run import begin, make_parser

LIMIT = torch.finfo(torch.float16).max  # 65504
# Those that leave numbers as they are; and parts of norms and sums that autocast keeps in fp32.
_MOVES = (
    *("_unsafe_view", "view", "reshape", "permute", "transpose", "expand", "slice", "select", "clone", "copy"),
    *("empty", "new_", "zeros", "ones", "detach", "alias"),
)
_IN_FP32 = ("native_layer_norm", "native_batch_norm", "pow", "sum", "var", "_log_softmax", "nll_loss", "_foreach")


class Ranges(TorchDispatchMode):
    """Keeps the largest absolute output of each operator that runs in this context, in `largest`."""

    def __init__(self) -> None:
        super().__init__()
        self.largest: dict[str, float] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        leaf = next((x for x in tree_leaves(out) if isinstance(x, Tensor)), None)  # the first: others are statistics
        if leaf is None or not leaf.is_floating_point() or leaf.ndim < 2 or not leaf.numel() or name.startswith(_MOVES):
            return out
        finite = leaf.detach().nan_to_num(posinf=0, neginf=0)  # infinite are masks alone, as they are meant to be
        self.largest[name] = max(self.largest.get(name, 0.0), float(finite.abs().max()))
        return out


def watch_gradients(net: nn.Module) -> Ranges:
    """Return what will hold the largest gradient of inputs, by classes of the layers that have no others inside."""
    ranges = Ranges()

    def keep(layer: nn.Module, inputs: Sequence[Tensor | None], outputs: object) -> None:
        name = type(layer).__name__
        for gradient in inputs:
            if gradient is not None and gradient.numel():
                ranges.largest[name] = max(ranges.largest.get(name, 0.0), float(gradient.abs().max()))

    for layer in net.modules():
        if not any(layer.children()):
            layer.register_full_backward_hook(keep)
    return ranges


class Shapes(nn.Module):
    """A backbone that says which shapes are in an image."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        with torch.no_grad():
            backbone.eval()
            channels = backbone(torch.zeros(1, 3, 64, 64))[-1].shape[1]  # networks of others do not say
        self.backbone, self.head = backbone, nn.Linear(channels, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, shapes)."""
        return self.head(self.backbone(images)[-1].mean((2, 3)))


def batch_of_shapes(generator: np.random.Generator, batch: int, size: int) -> tuple[Tensor, Tensor]:
    """Return normalized images (B, 3, H, W) and which shapes are in each (B, shapes)."""
    drawn = [draw_image(generator, size, CLASSES, "bright") for _ in range(batch)]
    images = torch.from_numpy(np.stack([image for image, _ in drawn])).permute(0, 3, 1, 2).float()
    present = torch.zeros(batch, len(CLASSES))
    for row, (_, objects) in zip(present, drawn, strict=True):
        row[[one.label for one in objects]] = 1
    return (images - 120) / 58, present


def record_ranges(net: nn.Module, steps: int, batch: int, size: int) -> tuple[Ranges, Ranges, float]:
    """Train for some steps; return the ranges of one step more, of outputs and of gradients, and its loss."""
    generator, model = np.random.default_rng(0), Shapes(net).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.05)
    for _ in range(steps):
        images, present = batch_of_shapes(generator, batch, size)
        loss = F.binary_cross_entropy_with_logits(model(images), present)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    images, present = batch_of_shapes(generator, batch, size)
    gradients = watch_gradients(net)
    with Ranges() as forward:
        loss = F.binary_cross_entropy_with_logits(model(images), present)
    loss.backward()
    return forward, gradients, loss.item()


def largest_of(ranges: Ranges, fp32: bool) -> tuple[str, float]:
    """Return the operator with the largest output among those that autocast keeps in fp32, or among the others."""
    found = {name: value for name, value in ranges.largest.items() if name.startswith(_IN_FP32) == fp32}
    return max(found.items(), key=lambda item: item[1], default=("", 0.0))


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Record, print a table, write the largest."""
    parser = make_parser(__doc__, "ranges")
    parser.add_argument("rows", nargs="+", metavar="ROW", help="as of benchmarks.backbones")
    parser.add_argument("--steps", type=int, default=100, help="of training before")
    parser.add_argument("--size", type=int, default=128, help="side of the images")
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args(argv)
    benchmark, lines = begin(args), []
    for text in args.rows:
        row: Row = parse_row(text)
        forward, gradients, loss = record_ranges(row.build(), args.steps, args.batch, args.size)
        (name, value), (of, gradient) = largest_of(forward, False), largest_of(gradients, False)
        in_fp32 = largest_of(forward, True)[1]
        power = math.floor(math.log2(LIMIT / max(gradient, torch.finfo(torch.float32).tiny)))
        cells = (f"{value:.3g}", name, f"{LIMIT / value:.2g}", f"{in_fp32:.3g}", f"{gradient:.2g}", of, f"2^{power}")
        lines.append((row.label, f"{loss:.2f}", *cells))
        quantities = {"largest activation": [value], "largest gradient": [gradient], "loss": [loss]}
        setting = f"{args.size}x{args.size}, batch {args.batch}, {args.steps} steps"
        benchmark.records.append(Record("ranges", setting, row.label, "eager", "fp32", quantities))
        write(args.csv, args.name, benchmark)
    head = ("network", "loss", "largest activation", "of", "65504 over it", "in fp32", "largest gradient", "of")
    print(markdown_table((*head, "largest scale"), lines))


if __name__ == "__main__":
    main()
