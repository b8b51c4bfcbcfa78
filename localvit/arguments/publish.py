"""Publishes a trained detector: `localvit publish work_dirs/mine/epoch_12.pth`.

Writes NAME-xxxxxxxx.pth with weights (the averaged ones where the training had EMAHook), config, classes, versions
and metrics. `localvit test NAME-xxxxxxxx.pth` and `DetInferencer(weights='NAME-xxxxxxxx.pth')` need nothing
else.
"""

import argparse
from collections.abc import Sequence

from localvit_det.cli import Parser, add_trust, check_given


def read(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = Parser(__doc__)
    parser.add_argument("checkpoint", help="checkpoint of a training")
    parser.add_argument("--out-dir", help="folder of the published file (default: the checkpoint's)")
    parser.add_argument("--name", help="start of its name (default: the config's name)")
    add_trust(parser)
    args = parser.parse_args(argv)
    check_given("The checkpoint", args.checkpoint)
    return args
