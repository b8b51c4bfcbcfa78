"""Make a small COCO-format dataset of synthetic shapes.

    python -m localvit_det.datasets.shapes data/shapes --seed 1
    python -m localvit_det.datasets.shapes data/stars --classes circle square triangle star --palette dusk

Same settings, same dataset: annotations are bitwise identical, pixels too (with the same OpenCV).
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from .synthetic_shapes import CLASSES, OUTLINES, PALETTES, make_shapes

__all__ = ["CLASSES", "main", "make_shapes"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the arguments and make the dataset; a mistake ends in its sentence and exit code 1."""
    parser = argparse.ArgumentParser(
        prog="python -m localvit_det.datasets.shapes", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("root", type=Path, help="folder to make, e.g. data/shapes")
    parser.add_argument("--num-train", type=int, default=400, help="training images (default: %(default)s)")
    parser.add_argument("--num-val", type=int, default=100, help="validation images (default: %(default)s)")
    parser.add_argument("--size", type=int, default=160, help="side of an image in pixels (default: %(default)s)")
    parser.add_argument("--classes", nargs="+", default=CLASSES, metavar="NAME", help=f"among {', '.join(OUTLINES)}")
    parser.add_argument("--palette", default="bright", help=f"one of {', '.join(PALETTES)} (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    try:
        root = make_shapes(**vars(parser.parse_args(arguments)))
    except UserError as error:
        sys.exit(str(error))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger(__name__).info("The synthetic shapes are in %s", root)


if __name__ == "__main__":
    main()
