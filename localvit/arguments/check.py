"""Checks the data of a config: `localvit check CONFIG --images`.

Names every mistake in annotations and files, where training stops at the first one; with --images all images are
decoded, too. The exit code is 1 where there are problems.
"""

import argparse
import os
from collections.abc import Sequence

from localvit_det.cli import make_config_parser
from localvit_det.config_names import existing_config


def read(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = make_config_parser(__doc__)
    parser.add_argument("--images", action="store_true", help="decode every image")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of --images")
    args = parser.parse_args(argv)
    existing_config(args.config)
    return args
