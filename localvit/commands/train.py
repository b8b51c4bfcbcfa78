"""Trains a detector: `localvit train mask_rcnn_shuffle_t_coco`."""

import argparse
import tempfile
from collections.abc import Sequence

from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config
from mmengine.registry import RUNNERS

from localvit_det.cli import check_config, config_from, enable_amp, make_parser, seed, tells_mistakes
from localvit_det.engine.dry_run import DryRunDone, DryRunHook
from localvit_det.engine.lock import lock_work_dir
from localvit_det.engine.processes import launched_rank
from localvit_det.errors import ConfigError
from localvit_det.switches import (
    EMA_MOMENTUM,
    LOGGERS,
    PATIENCE,
    average_weights,
    check_loggers,
    decay_layers,
    freeze,
    log_to,
    stop_early,
)


@tells_mistakes
def main(argv: Sequence[str] | None = None) -> None:
    """Reads the arguments, checks everything that can be checked, trains."""
    parser = make_parser(__doc__)
    parser.add_argument("--amp", action="store_true", help="mixed precision: float16 on GPUs, bfloat16 on CPUs")
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size")
    parser.add_argument("--seed", type=int, metavar="N", help="the same random numbers in each run")
    parser.add_argument("--deterministic", action="store_true", help="the same sums in each run on a GPU, too: slower")
    parser.add_argument(
        "--ema",
        nargs="?",
        type=float,
        const=EMA_MOMENTUM,
        metavar="MOMENTUM",
        help="validate, save and publish a moving average of the weights",
    )
    parser.add_argument(
        "--early-stop",
        nargs="?",
        type=int,
        const=PATIENCE,
        metavar="PATIENCE",
        help=f"stop after so many validations without a new best one (default {PATIENCE})",
    )
    parser.add_argument(
        "--log", nargs="+", choices=list(LOGGERS), metavar="LOGGER", help=f"log there, too: {', '.join(LOGGERS)}"
    )
    parser.add_argument(
        "--freeze", type=int, metavar="N", help="leave the backbone's stem and first N stages as they are"
    )
    parser.add_argument(
        "--layer-decay", type=float, metavar="RATE", help="let learning rates fall by layer, for example 0.9"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, try one batch, write nothing")
    parser.add_argument(
        "--pretrained",
        metavar="BACKBONE.pth",
        help="start the backbone from these weights (official files as they are)",
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--load-from",
        metavar="DETECTOR.pth",
        help="fine-tune this detector; heads start new where the classes differ",
    )
    start.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from a checkpoint; from the latest one in the work dir if none is named",
    )
    args = parser.parse_args(argv)

    if args.pretrained:
        args.cfg_options = {"pretrained": args.pretrained, **(args.cfg_options or {})}
    if args.load_from:
        args.cfg_options = {"load_policy": "finetune", "load_from": args.load_from, **(args.cfg_options or {})}
    cfg = config_from(args)
    if args.amp:
        enable_amp(cfg)
    if args.seed is not None or args.deterministic:
        seed(cfg, args.seed, args.deterministic)
    if args.auto_scale_lr:
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
            raise ConfigError("--auto-scale-lr needs auto_scale_lr.base_batch_size in the config.")
        cfg.auto_scale_lr.enable = True
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == "auto" else args.resume
    switch(cfg, args)
    if launched_rank() == 0 and not args.dry_run:
        lock_work_dir(cfg.work_dir)  # before anything is written there
    check_config(cfg, train=True)

    setup_cache_size_limit_of_dynamo()
    cfg.setdefault("runner_type", "ReliableRunner")
    if args.dry_run:
        try_one_batch(cfg)
    else:
        RUNNERS.build(cfg).train()


def switch(cfg: Config, args: argparse.Namespace) -> None:
    """Applies the switches that were given.

    Raises:
        UserError: One makes no sense for this config, or needs a package that is not installed.
    """
    for value, change in (
        (args.ema, average_weights),
        (args.early_stop, stop_early),
        (args.log, log_to),
        (args.freeze, freeze),
        (args.layer_decay, decay_layers),
    ):
        if value is not None:
            change(cfg, value)
    check_loggers(cfg)


def try_one_batch(cfg: Config) -> None:
    """Trains for one iteration in a temporary work dir, and tells how it went."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        cfg.work_dir = folder
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.get("type") != "CurvesHook"]  # it draws at exit
        cfg.visualizer = {"type": "DetLocalVisualizer", "vis_backends": None, "name": "dry run"}
        runner = RUNNERS.build(cfg)
        runner.register_hook(DryRunHook())
        try:
            runner.train()
        except DryRunDone as done:
            if runner.rank == 0:
                print(done)
