"""Evaluates a checkpoint: `localvit test CONFIG CHECKPOINT`.

The config may be left out for a checkpoint that carries one: a published one, one of a training, a work dir, or an
exported file.
"""

import argparse
from collections.abc import Sequence

from localvit_det.cli import check_given, make_parser
from localvit_det.config_names import existing_config
from localvit_det.errors import ConfigError
from localvit_det.files import check_writable, check_writable_folder
from localvit_det.requirements import require_package


def read(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "checkpoint", nargs="?", help="checkpoint file, or a work dir, whose newest checkpoint is taken"
    )
    parser.add_argument("--out", metavar="FILE.pkl", help="write the predictions into this file")
    parser.add_argument("--show", action="store_true", help="show predictions in a window")
    parser.add_argument("--show-dir", help="draw predictions next to ground truth into this folder")
    parser.add_argument("--wait-time", type=float, default=2, help="seconds between windows of --show")
    parser.add_argument("--report", action="store_true", help="write report.html into the work dir")
    parser.add_argument("--fast-eval", action="store_true", help="evaluate with faster-coco-eval: the same numbers")
    parser.add_argument("--tta", action="store_true", help="look at each image flipped and at three sizes")
    parser.add_argument("--no-fuse", action="store_true", help="run the model as it was trained: slower")
    args = parser.parse_args(argv)
    if args.out and not args.out.endswith((".pkl", ".pickle")):
        raise ConfigError(f"--out {args.out} must end in .pkl: predictions are written as a pickle.")
    if args.out:
        check_writable(args.out, "--out")
    if args.show_dir:
        check_writable_folder(args.show_dir, "--show-dir")
    existing_config(args.config)
    check_given("The checkpoint", args.checkpoint)
    if args.fast_eval:
        require_package("faster_coco_eval", "--fast-eval", "faster-coco-eval")
    return args
