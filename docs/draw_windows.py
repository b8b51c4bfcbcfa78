"""Draw local and dilated windows on a small map: `python docs/draw_windows.py` writes docs/windows.png.

Which token belongs to which window is asked of the code itself, so the figure shows what the networks do.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

from localvit_det.cli import handle_user_errors
from localvit_det.files import atomic_file, check_writable
from localvit_det.layers import Split, window_partition

# Grey and orange can be read on white and on black alike; the background is transparent.
GREY, HIGHLIGHT = "#797979", "#dd5a05"
MEANINGS = {
    "local": "neighboring tokens attend to each other",
    "dilated": "tokens spread over the whole map attend to each other",
}


def windows_of_tokens(side: int, window_size: int, split: Split) -> Tensor:
    """Return the number of the window of each token of a square map (side, side), as the networks split it."""
    tokens = torch.arange(side * side)
    windows = window_partition(tokens.view(1, 1, side, side), window_size, split)[0, 0]  # windows, ws²
    numbers = torch.empty_like(tokens)
    numbers[windows] = torch.arange(len(windows))[:, None]
    return numbers.view(side, side)


def draw_windows(path: Path, side: int = 12, window_size: int = 4) -> None:
    """Draw a map for each split: a square for each token, with the number of its window, the middle one highlighted."""
    figure = Figure(figsize=(11, 6.1))
    for column, split in enumerate(get_args(Split)):
        axes = figure.add_axes((0.02 + 0.5 * column, 0.01, 0.46, 0.84))
        numbers = windows_of_tokens(side, window_size, split)
        for (y, x), number in np.ndenumerate(numbers.numpy()):
            strong = number == int(numbers.max()) // 2
            square = FancyBboxPatch((x + 0.1, y + 0.1), 0.8, 0.8, "round,pad=0,rounding_size=0.16")
            square.set(facecolor=HIGHLIGHT if strong else GREY, alpha=1.0 if strong else 0.26, linewidth=0)
            axes.add_patch(square)
            style = {"color": "white", "weight": "bold"} if strong else {"color": GREY}
            axes.text(x + 0.5, y + 0.53, str(number + 1), size=13, ha="center", va="center", **style)
        axes.set(xlim=(0, side), ylim=(side, 0), aspect="equal")
        axes.axis("off")
        middle, common = 0.25 + 0.5 * column, {"color": GREY, "ha": "center", "va": "center"}
        figure.text(middle, 0.957, f"{split} windows", size=19, weight="bold", **common)
        figure.text(middle, 0.9, MEANINGS[split], size=13, **common)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=130, transparent=True, metadata={"Software": None})


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Draw docs/windows.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("windows.png"), help="the PNG to write")
    args = parser.parse_args(argv)
    check_writable(args.out, "--out")
    draw_windows(args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
