"""Writes a checkpoint or a dataset in another format, as `localvit.arguments.data` says."""

import os
from collections.abc import Sequence

import localvit_det  # noqa: F401 - before anything that needs mmcv.ops
from localvit.arguments.data import read_convert
from localvit_det.checkpoint.publish import convert
from localvit_det.cli import LEFT_OUT, handle_user_errors
from localvit_det.config import load_config
from localvit_det.datasets.converters import convert_dataset
from localvit_det.errors import ConfigError, printable, shortened

OF_DATA = (".yaml", ".yml", ".json", ".xml")  # what names a dataset in the place of its folder


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, convert, and print what was done."""
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
    print(convert(args.source, args.target, model))
    print(f"Wrote {args.target}")
