"""Writes detectors and datasets in other formats: `publish`, `convert`, `export`, as `localvit.arguments` says."""

import argparse
import os
from collections.abc import Iterator, Sequence

from localvit.arguments.data import read_convert
from localvit.arguments.models import read_export, read_publish
from localvit_det.backbones import LocalViT
from localvit_det.checkpoint import publish as publishing
from localvit_det.cli import LEFT_OUT, handle_user_errors
from localvit_det.config import load_config
from localvit_det.datasets.converters import convert_dataset
from localvit_det.errors import ConfigError, printable, shortened
from localvit_det.export import export_backbone
from localvit_det.export.detector import export_detector
from localvit_det.export.formats import FORMATS, find_format, unlisted_operators
from localvit_det.export.quantize import quantize
from localvit_det.predict import Detector
from localvit_det.predict.sources import Sources

OF_DATA = (".yaml", ".yml", ".json", ".xml")  # what names a dataset in the place of its folder


@handle_user_errors
def publish(argv: Sequence[str] | None = None) -> None:
    """Write a training's weights, config and classes into one file, and print what was written."""
    args = read_publish(argv)
    print(publishing.publish(args.checkpoint, args.out_dir, args.name, args.trust_config))


@handle_user_errors
def convert(argv: Sequence[str] | None = None) -> None:
    """Convert a checkpoint or a dataset, and print what was done."""
    args = read_convert(argv)
    if os.path.isdir(args.source) or args.source.endswith(OF_DATA):
        if args.config:
            raise ConfigError(f"--config belongs to checkpoints, and {args.source} is a dataset: leave it out.")
        left_out: dict[str, str] = {}
        print(convert_dataset(args.source, args.target, left_out))
        print(f"Use it with --cfg-options data_root={args.target} classes=auto")
        if left_out:
            print(f"left out: {len(left_out)} images ({printable(shortened(list(left_out), 5))})")
            raise SystemExit(LEFT_OUT)
        return
    model = load_config(args.config, data=False).model if args.config else None
    print(publishing.convert(args.source, args.target, model))
    print(f"Wrote {args.target}")


@handle_user_errors
def export(argv: Sequence[str] | None = None) -> None:
    """Export a detector, and report how far the exported model is from it."""
    args = read_export(argv)
    for sources in filter(None, (args.images, args.calibration)):
        Sources(sources)  # a mistake is reported before any work
    detector = Detector(args.model, args.config, "cpu", fuse=False, options=args.cfg_options, trusted=args.trust_config)
    for line in _exported(args, detector):
        print(line)
    if find_format(args.format, args.out) is FORMATS["onnx"]:
        absent, version = unlisted_operators(args.out)
        lacks = f"lacks {', '.join(absent)}" if absent else "has all of the file's operators"
        print(f"The list of {version}'s ONNX parser {lacks}.")
    print(f"Wrote {args.out}")


def _exported(args: argparse.Namespace, detector: Detector) -> Iterator[str]:
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
