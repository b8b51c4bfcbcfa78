"""Writes an official checkpoint in this package's layout.

localvit convert dwnet_tiny_224.pth dwnet_t.safetensors
localvit convert cascade_mask_rcnn_dwnet_tiny.pth cascade_dwnet_t.pth \
    --config cascade_mask_rcnn_dwnet_t_3x_coco

Every command loads official files as they are; a converted one is for those who want a file of tensors alone.
"""

import argparse
from collections.abc import Sequence

import localvit_det  # noqa: F401 - before anything that needs mmcv.ops
from localvit_det.checkpoint.convert import convert
from localvit_det.cli import tells_mistakes
from localvit_det.config import load_config


@tells_mistakes
def main(argv: Sequence[str] | None = None) -> None:
    """Reads the arguments, converts, prints what was done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="checkpoint in any known layout")
    parser.add_argument("target", help="file to write, .pth or .safetensors")
    parser.add_argument("--config", help="config of the model; needed for detectors and for sizes of your own")
    args = parser.parse_args(argv)
    model = load_config(args.config).model if args.config else None
    print(convert(args.source, args.target, model))
    print(f"Wrote {args.target}")
