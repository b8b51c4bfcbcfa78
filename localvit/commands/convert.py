"""Writes an official checkpoint in this package's layout, or a dataset of another format in COCO's.

localvit convert dwnet_tiny_224.pth dwnet_t.safetensors
localvit convert cascade_mask_rcnn_dwnet_tiny.pth cascade_dwnet_t.pth \
    --config cascade_mask_rcnn_dwnet_t_3x_coco
localvit convert /data/yolo /data/coco

Every command loads official files as they are; a converted one is for those who want a file of tensors alone. A folder
is a dataset in YOLO's or Pascal VOC's format; images are linked where the disk allows it, and nothing in it changes.
Images that cannot be used are named and left out: then the exit code is 3.
"""

import argparse
import os
from collections.abc import Sequence

import localvit_det  # noqa: F401 - before anything that needs mmcv.ops
from localvit_det.checkpoint.publish import convert
from localvit_det.cli import LEFT_OUT, handle_user_errors
from localvit_det.config import load_config
from localvit_det.datasets.converters import convert_dataset
from localvit_det.errors import ConfigError, printable, shortened


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, convert, and print what was done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="checkpoint in any known layout, or folder of a dataset")
    parser.add_argument("target", help="file to write, .pth or .safetensors; for a dataset a new folder")
    parser.add_argument("--config", help="config of the model; needed for detectors and for sizes of your own")
    args = parser.parse_args(argv)
    if os.path.isdir(args.source):
        if args.config:
            raise ConfigError(f"--config belongs to checkpoints, and {args.source} is a folder: leave it out.")
        left_out: dict[str, str] = {}
        print(convert_dataset(args.source, args.target, left_out))
        print(f"Use it with --cfg-options data_root={args.target} classes=auto")
        if left_out:
            print(f"left out: {len(left_out)} images ({printable(shortened(list(left_out), 5))})")
            raise SystemExit(LEFT_OUT)
        return
    model = load_config(args.config, data=False).model if args.config else None
    print(convert(args.source, args.target, model))
    print(f"Wrote {args.target}")
