"""Draws local and dilated windows on a small map: `python tools/draw_windows.py` writes docs/windows.png.

Which token belongs to which window is asked of the code itself, so the figure shows what the networks do.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

from localvit_det.cli import tells_mistakes
from localvit_det.errors import ConfigError
from localvit_det.files import atomic_file, check_writable
from localvit_det.layers import Split, window_partition

OUT = Path(__file__).resolve().parent.parent / "docs/windows.png"
TITLES = {
    "local": ("local windows", "neighboring tokens attend to each other"),
    "dilated": ("dilated windows", "tokens spread over the whole map attend to each other"),
}
# Text and tokens can be read on white and on black alike; the background is transparent.
GREY, HIGHLIGHT = "#797979", "#dd5a05"


def windows_of_tokens(side: int, window_size: int, split: Split) -> Tensor:
    """The number of the window of each token of a square map: (side, side).

    Args:
        side: Side of the map, in tokens; a multiple of ``window_size``.
        window_size: Side of a window, in tokens.
        split: Which tokens share a window.
    """
    tokens = torch.arange(side * side)
    windows = window_partition(tokens.view(1, 1, side, side), window_size, split)[0, :, 0, :, 0]  # windows, ws²
    numbers = torch.empty_like(tokens)
    numbers[windows] = torch.arange(len(windows))[:, None]
    return numbers.view(side, side)


def draw(path: Path, side: int, window_size: int) -> None:
    """Draw a map of ``side`` × ``side`` tokens for each split, with the window in its middle highlighted."""
    figure = Figure(figsize=(11, 6.1))
    for column, split in enumerate(get_args(Split)):
        axes = figure.add_axes((0.02 + 0.5 * column, 0.01, 0.46, 0.84))
        draw_map(axes, windows_of_tokens(side, window_size, split))
        name, meaning = TITLES[split]
        figure.text(0.25 + 0.5 * column, 0.957, name, color=GREY, size=19, weight="bold", ha="center", va="center")
        figure.text(0.25 + 0.5 * column, 0.9, meaning, color=GREY, size=13, ha="center", va="center")
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=130, transparent=True, metadata={"Software": None})


def draw_map(axes: Axes, numbers: Tensor) -> None:
    """Draw one map: a square for each token, with the number of its window in it."""
    side, highlighted = len(numbers), int(numbers.max()) // 2
    for y, row in enumerate(numbers.tolist()):
        for x, number in enumerate(row):
            strong = number == highlighted
            color, opacity = (HIGHLIGHT, 1.0) if strong else (GREY, 0.26)
            square = FancyBboxPatch((x + 0.1, y + 0.1), 0.8, 0.8, "round,pad=0,rounding_size=0.16")
            square.set(facecolor=color, alpha=opacity, linewidth=0)
            axes.add_patch(square)
            style = {"color": "white", "weight": "bold"} if strong else {"color": GREY}
            axes.text(x + 0.5, y + 0.53, str(number + 1), size=13, ha="center", va="center", **style)
    axes.set(xlim=(0, side), ylim=(side, 0), aspect="equal")
    axes.axis("off")


@tells_mistakes
def main(argv: Sequence[str] | None = None) -> None:
    """Draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="the PNG to write")
    parser.add_argument("--side", type=int, default=12, help="side of the map, in tokens")
    parser.add_argument("--window-size", type=int, default=4, help="side of a window, in tokens")
    args = parser.parse_args(argv)
    if args.window_size < 1 or args.side < 1 or args.side % args.window_size:
        raise ConfigError(f"--side {args.side} must be a multiple of --window-size {args.window_size}.")
    check_writable(args.out, "--out")
    draw(args.out, args.side, args.window_size)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
