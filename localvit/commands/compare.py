"""Compares two detectors, as `localvit.arguments.models` says."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

import localvit_det  # noqa: F401 - before anything that needs mmcv.ops
from localvit.arguments.models import read_compare
from localvit.commands.analyze import as_text
from localvit_det.analysis.compare import compare
from localvit_det.cli import check_devices, handle_user_errors
from localvit_det.files import write_text


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, compare, print tables, write the file."""
    args = read_compare(argv)
    check_devices(args)
    settings = (args.resamples, args.seed, args.images, args.cfg_options, args.trust_config)
    found = compare(args.first, args.second, args.data, *settings)
    sys.stdout.write(f"\nfirst: {args.first}\nsecond: {args.second}\n{found.images} images, {found.device}\n")
    for table in found.tables():
        sys.stdout.write(f"\n{as_text(table)}\n")
    if args.json:
        write_text(args.json, json.dumps(asdict(found), indent=1) + "\n")
        sys.stdout.write(f"\nwritten: {args.json}\n")
