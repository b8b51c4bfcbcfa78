"""Writes a detector or segmentor for other runtimes: `localvit export MODEL --format onnx --out detector.onnx`.

MODEL is a published file, a checkpoint of a training, or a work dir. The file holds all from the bytes of an image to
boxes, classes and masks, takes images of any size, and is kept only if it finds what the detector finds. `localvit
predict FILE` runs it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from localvit_det.cli import Parser, add_trust, check_given
from localvit_det.errors import ConfigError
from localvit_det.requirements import require_package
from localvit_det.typed_options import HELP, OptionsAction

FORMATS = {"onnx": "onnx", "openvino": "openvino", "torchscript": "torchscript", "torch.export": "torch_export"}
NEEDS = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}  # as of export.formats.FORMATS
ENDINGS = {".onnx": "onnx", ".xml": "openvino"}


def read(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = Parser(__doc__)
    parser.add_argument("model", metavar="MODEL", help="checkpoint or work dir")
    parser.add_argument("--out", required=True, metavar="FILE", help="ends in .onnx, .xml (OpenVINO), .pt or .pt2")
    parser.add_argument("--format", choices=FORMATS, help="default: what the ending of FILE says")
    parser.add_argument("--size", metavar="HxW", help="take only images of this size, in pixels, padded if smaller")
    parser.add_argument("--dynamic", action="store_true", help="take images of any size (default without --size)")
    parser.add_argument("--backbone", action="store_true", help="the backbone alone: normalized image in, maps out")
    parser.add_argument("--images", nargs="+", metavar="SOURCE", help="compare on these instead of synthetic images")
    parser.add_argument("--half", action="store_true", help="ONNX with layers in fp16")
    parser.add_argument("--int8", action="store_true", help="OpenVINO in INT8, see --calibration")
    parser.add_argument("--calibration", nargs="+", metavar="SOURCE", help="images like those that it will see")
    parser.add_argument("--config", help="config, or its name (default: the one in the checkpoint)")
    parser.add_argument("--cfg-options", nargs="+", action=OptionsAction, metavar="KEY=VALUE", help=HELP)
    add_trust(parser)
    args = parser.parse_args(argv)
    args.format = FORMATS.get(args.format)
    if args.images and (args.int8 or args.backbone):
        raise ConfigError(
            "--images are for the comparison of whole detectors in fp32: leave it out "
            f"{'and give --calibration' if args.int8 else 'with --backbone'}."
        )
    kind = args.format or ENDINGS.get(Path(args.out).suffix, "")
    if args.half and (args.backbone or args.int8 or kind != "onnx"):
        raise ConfigError(
            "--half writes whole detectors for ONNX: let --out end in .onnx, without --int8 or --backbone."
        )
    if args.size and args.dynamic and not args.backbone:
        raise ConfigError("--dynamic takes images of any size and --size those of one: give one of the two.")
    args.dynamic = args.dynamic or not args.size
    args.size = size_of(args.size) if args.size else None
    if args.int8:
        if args.calibration is None:
            raise ConfigError("--int8 needs images like those that the detector will see: name them by --calibration.")
        if args.backbone or args.format not in (None, "openvino") or Path(args.out).suffix != ".xml":
            raise ConfigError("--int8 writes whole detectors for OpenVINO: let --out end in .xml.")
    elif args.calibration is not None:
        raise ConfigError("--calibration has no effect without --int8: leave it out, or add --int8.")
    check_given("MODEL", args.model)
    for package in (*(["nncf"] if args.int8 else []), *NEEDS.get(kind, ())):
        require_package(package, f"An export to {kind}")
    return args


def size_of(text: str) -> tuple[int, int]:
    """Return height and width from 'HxW'."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigError(f"--size {text} is no size: give height and width, as in --size 448x672.")
    return int(parts[0]), int(parts[1])
