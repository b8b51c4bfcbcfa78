"""Publishes a trained detector, as `localvit.arguments.models` says."""

from collections.abc import Sequence

import localvit_det  # noqa: F401 - before anything that needs mmcv.ops
from localvit.arguments.models import read_publish
from localvit_det.checkpoint.publish import publish
from localvit_det.cli import handle_user_errors


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments and publish."""
    args = read_publish(argv)
    print(publish(args.checkpoint, args.out_dir, args.name, args.trust_config))
