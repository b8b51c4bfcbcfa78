"""Trains a detector: `localvit train mask_rcnn_shuffle_t_coco`."""

import argparse
from collections.abc import Sequence

from localvit_det.cli import add_device, check_given, make_parser, use_devices
from localvit_det.config_names import existing_config
from localvit_det.requirements import require_package
from localvit_det.switches import LOGGERS, SWITCHES
from localvit_det.typed_options import add_short

SHORT = {
    "epochs": ("N", "length of the training; the learning rate's schedule follows"),
    "batch": ("N", "images of each GPU at a time, or 'auto': what fits; the learning rate follows"),
    "lr": ("RATE", "learning rate at the given batch"),
    "imgsz": ("SIZE", "pixels that images are scaled to fit into: 800, or 1333x800"),
    "augment": ("NAME", "none, flip, color, crop, lsj, mosaic or copypaste, instead of the config's augmentation"),
    "workers": ("N", "processes that load images, for each GPU"),
}


def read(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = make_parser(__doc__)
    add_short(parser, SHORT)
    add_device(parser)
    for name, one in SWITCHES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **one.argument)
    parser.add_argument("--dry-run", action="store_true", help="check everything, try one batch, write nothing")
    parser.add_argument(
        "--pretrained",
        metavar="BACKBONE.pth",
        help="start the backbone from these weights (official files as they are; 'official' downloads them, see "
        "`localvit weights`; FILE#model_ema takes those under that key of a file with several)",
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--load-from",
        metavar="DETECTOR.pth",
        help="fine-tune this detector; heads keep the rows of classes of the same names, other rows start new",
    )
    start.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from a checkpoint; from the latest one in the work dir if none is named. What the training was "
        "started with is repeated, but for what is given now",
    )
    parser.add_argument(
        "--without",
        nargs="+",
        choices=[name.replace("_", "-") for name in SWITCHES],
        default=[],
        metavar="SWITCH",
        help="with --resume: leave out these switches that the training was started with",
    )
    args = parser.parse_args(argv)
    use_devices(args)
    existing_config(args.config)
    check_given("--load-from", args.load_from)
    check_given("--pretrained", None if args.pretrained == "official" else args.pretrained)
    check_given("--resume", None if args.resume == "auto" else args.resume)
    for logger in args.log or ():
        require_package(LOGGERS[logger][1], f"--log {logger}")
    return args
