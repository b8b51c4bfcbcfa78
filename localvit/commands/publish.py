"""Publishes a trained detector: `localvit publish work_dirs/mine/epoch_12.pth`.

Writes NAME-xxxxxxxx.pth with weights (the averaged ones where the training had EMAHook), config, classes, versions
and metrics. `localvit test NAME-xxxxxxxx.pth` and `DetInferencer(weights='NAME-xxxxxxxx.pth')` need nothing
else.
"""

import argparse
from collections.abc import Sequence

import localvit_det  # noqa: F401 - before anything that needs mmcv.ops
from localvit_det.checkpoint.publish import publish
from localvit_det.cli import add_trust, handle_user_errors


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="checkpoint of a training")
    parser.add_argument("--out-dir", help="folder of the published file (default: the checkpoint's)")
    parser.add_argument("--name", help="start of its name (default: the config's name)")
    add_trust(parser)
    args = parser.parse_args(argv)
    print(publish(args.checkpoint, args.out_dir, args.name, args.trust_config))
