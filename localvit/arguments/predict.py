"""Finds objects: `localvit predict published.pth photos/ clip.mp4 0 https://address/image.jpg`.

MODEL is a published file, a checkpoint of a training, a work dir, or an exported file. A SOURCE is an image, a video, a
folder with both, a glob in quotes, the number of a webcam, or an https address.
"""

import argparse
import glob
from collections.abc import Sequence
from pathlib import Path

from localvit_det.cli import Parser, add_trust, check_given
from localvit_det.config_names import existing_config
from localvit_det.errors import ConfigError
from localvit_det.requirements import require_package
from localvit_det.typed_options import HELP, OptionsAction

SCORE = 0.3  # as of config.pipelines
RUN_BY = {".onnx": "onnxruntime", ".xml": "openvino"}  # what opens an exported model


def read(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = Parser(__doc__)
    parser.add_argument("model", metavar="MODEL", help="checkpoint, work dir or exported file")
    parser.add_argument("source", metavar="SOURCE", nargs="+", help="where images come from")
    parser.add_argument("--config", help="config, or its name (default: the one in the checkpoint)")
    parser.add_argument("--out", default="predictions", help="folder of drawn images and videos (default: %(default)s)")
    parser.add_argument("--no-images", action="store_true", help="draw nothing")
    parser.add_argument("--json", metavar="FILE", help="write all objects as a dataset in COCO's format, with scores")
    parser.add_argument(
        "--annotations",
        metavar="FILE",
        help="with --json: write COCO's results, with the image and category ids of this dataset in COCO's format",
    )
    parser.add_argument("--crops", metavar="DIR", help="write what lies in each box, in a folder for each class")
    parser.add_argument(
        "--save-txt",
        nargs="?",
        const="",
        metavar="DIR",
        help="write a label file of YOLO for each image (default: the folder labels/ in --out)",
    )
    parser.add_argument("--classes", nargs="+", metavar="CLASS", help="keep these classes only, by names or numbers")
    parser.add_argument("--max-det", type=int, metavar="N", help="keep the N best objects of each image")
    parser.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="look at each image in overlapping tiles as well, for objects that are small in large images: 640",
    )
    parser.add_argument("--score", type=float, default=SCORE, help="leave out lower scores (default: %(default)s)")
    parser.add_argument("--batch", type=int, help="images at a time (default: 1 on a CPU, 8 on a GPU)")
    parser.add_argument("--device", help="cpu, cuda:1, … (default: a GPU if there is one)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of videos, take each N-th frame")
    parser.add_argument("--max-frames", type=int, metavar="N", help="of each video or webcam, take N frames at most")
    parser.add_argument("--show", action="store_true", help="show each image in a window")
    parser.add_argument("--no-fuse", action="store_true", help="run the model as it was trained: slower")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--verbose", action="store_true", help="report how the checkpoint was loaded")
    parser.add_argument("--cfg-options", nargs="+", action=OptionsAction, metavar="KEY=VALUE", help=HELP)
    add_trust(parser)
    args = parser.parse_args(argv)
    for name in ("every", "batch", "max_frames", "max_det"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value} makes no sense: give a number from 1 on.")
    if not 0 <= args.score <= 1:
        raise ConfigError(f"--score {args.score} is no score: give a number from 0 to 1.")
    if args.save_txt == "":
        args.save_txt = str(Path(args.out) / "labels")
    if args.annotations and not args.json:
        raise ConfigError("--annotations decides on the ids in the file of --json: give that, too.")
    check_given("MODEL", args.model)
    check_given("--annotations", args.annotations)
    if args.config:
        existing_config(args.config)
    for source in args.source:
        if not source.isdecimal() and not glob.has_magic(source):
            check_given("The source", source)
    if package := RUN_BY.get(Path(args.model).suffix):
        require_package(package, args.model)
    return args
