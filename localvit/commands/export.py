"""Writes a detector for other runtimes, as `localvit.arguments.models` says."""

import argparse
import sys
from collections.abc import Iterator, Sequence

from localvit.arguments.models import read_export
from localvit_det.backbones import LocalViT
from localvit_det.cli import handle_user_errors
from localvit_det.errors import ConfigError
from localvit_det.export import export_backbone
from localvit_det.export.detector import export_detector
from localvit_det.export.formats import FORMATS, find_format, unlisted_operators
from localvit_det.export.quantize import quantize
from localvit_det.predict import Detector
from localvit_det.predict.sources import Sources


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, export, and report how far the exported model is from the detector."""
    args = read_export(argv)
    for sources in filter(None, (args.images, args.calibration)):
        Sources(sources)  # a mistake is reported before any work
    detector = Detector(args.model, args.config, "cpu", fuse=False, options=args.cfg_options, trusted=args.trust_config)
    for line in compared(args, detector):
        sys.stdout.write(f"{line}\n")
    if find_format(args.format, args.out) is FORMATS["onnx"]:
        absent, version = unlisted_operators(args.out)
        lacks = f"lacks {', '.join(absent)}" if absent else "has all of the file's operators"
        sys.stdout.write(f"The list of {version}'s ONNX parser {lacks}.\n")
    sys.stdout.write(f"Wrote {args.out}\n")


def compared(args: argparse.Namespace, detector: Detector) -> Iterator[str]:
    """Export, and say how far the exported model is from the detector."""
    reading = {key: detector.config.get(key) for key in ("max_pixels", "pixel_range")}
    if args.backbone:
        backbone = getattr(detector.model, "backbone", None)
        if not isinstance(backbone, LocalViT):
            raise ConfigError(
                f"--backbone exports those of this package, and {args.model} has a {type(backbone).__name__}: leave "
                "--backbone out."
            )
        found = export_backbone(backbone, args.out, args.format, args.size or (800, 1333), args.dynamic)
        yield from (f"{one.size[0]}×{one.size[1]}: maps differ by {one.error:.0e} of their norm" for one in found)  # noqa: RUF001
    elif args.int8:
        images = Sources(args.calibration, **reading)
        done = quantize(detector, args.out, images, args.size)
        yield f"calibrated on {done.images} images; {done.again} of {done.objects} objects are found again"
    else:
        compared = [frame.image for frame in Sources(args.images, **reading)] if args.images else []
        yield from map(str, export_detector(detector, args.out, args.format, args.size, compared, args.half))
