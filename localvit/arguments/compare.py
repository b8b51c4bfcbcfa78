"""Compares two detectors on the same images: `localvit compare W1 W2 [--data FOLDER]`.

W1 and W2 are checkpoints, work dirs or exported models. AP, of classes as well, comes with the interval that holds 95%
of the differences when the images are drawn again, with repetition (a paired bootstrap). Speed is that of one image at
a time, the detectors in turn.
"""

import argparse
from collections.abc import Sequence

from localvit_det.cli import Parser, add_device, add_trust, check_given, use_devices
from localvit_det.errors import ConfigError
from localvit_det.files import check_writable
from localvit_det.typed_options import HELP, OptionsAction


def read(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = Parser(__doc__)
    parser.add_argument("first", metavar="W1", help="checkpoint, work dir or exported model")
    parser.add_argument("second", metavar="W2", help="the other")
    parser.add_argument("--data", metavar="FOLDER", help="dataset (default: that of both trainings)")
    parser.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="draws of images (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: %(default)s)")
    parser.add_argument("--images", type=int, default=20, metavar="N", help="that are timed (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write all numbers into this file")
    parser.add_argument("--cfg-options", nargs="+", action=OptionsAction, metavar="KEY=VALUE", help=HELP)
    add_device(parser)
    add_trust(parser)
    args = parser.parse_args(argv)
    use_devices(args)
    for name, least in (("resamples", 20), ("images", 1), ("seed", 0)):
        if getattr(args, name) < least:
            raise ConfigError(f"--{name} {getattr(args, name)} makes no sense: give a whole number from {least} on.")
    check_given("W1", args.first)
    check_given("W2", args.second)
    check_given("--data", args.data)
    if args.json:
        check_writable(args.json, "--json")
    return args
