"""Evaluates a checkpoint: `localvit test CONFIG CHECKPOINT`, or predictions: `localvit test CONFIG --predictions FILE`.

The config may be left out for a checkpoint that carries one: a published one, one of a training, a work dir, or an
exported file.
"""

import argparse
from collections.abc import Sequence

from localvit_det.cli import add_device, check_given, make_parser, use_devices
from localvit_det.config_names import existing_config
from localvit_det.errors import ConfigError
from localvit_det.files import check_writable, check_writable_folder
from localvit_det.requirements import require_package
from localvit_det.typed_options import add_short

SHORT = {
    "batch": ("N", "images of each GPU at a time"),
    "imgsz": ("SIZE", "pixels that images are scaled to fit into: 800, or 1333x800"),
    "workers": ("N", "processes that load images, for each GPU"),
}


def read(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "checkpoint", nargs="?", help="checkpoint file, or a work dir, whose newest checkpoint is taken"
    )
    parser.add_argument("--predictions", metavar="FILE", help="score a file of COCO's results; no model is run")
    add_short(parser, SHORT)
    add_device(parser)
    parser.add_argument("--out", metavar="FILE.pkl", help="write the predictions into this file")
    parser.add_argument("--show", action="store_true", help="show predictions in a window")
    parser.add_argument("--show-dir", help="draw predictions next to ground truth into this folder")
    parser.add_argument("--wait-time", type=float, default=2, help="seconds between windows of --show")
    parser.add_argument("--report", action="store_true", help="write report.html into the work dir")
    parser.add_argument("--record", action="store_true", help="keep predictions and numbers as --report does, no page")
    parser.add_argument(
        "--fast-eval", action="store_true", help="stop where faster-coco-eval, the default if there, is not"
    )
    parser.add_argument("--tta", action="store_true", help="look at each image flipped and at three sizes")
    parser.add_argument("--no-fuse", action="store_true", help="run the model as it was trained: slower")
    args = parser.parse_args(argv)
    use_devices(args)
    if args.predictions:
        check_given("--predictions", args.predictions)
        of_models = ("checkpoint", "out", "show", "show_dir", "report", "fast_eval", "tta", "no_fuse", "device")
        if given := [name for name in of_models if getattr(args, name)]:
            raise ConfigError(
                f"--predictions scores a file, and {given[0].replace('_', '-')} needs a model: leave it out."
            )
    if "batch" in (args.cfg_options or {}):  # elsewhere the batch of the training
        args.cfg_options["test_dataloader.batch_size"] = args.cfg_options.pop("batch")
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
