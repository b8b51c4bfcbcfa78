"""Trains a detector, as `localvit.arguments.train` says."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config
from mmengine.registry import RUNNERS

from localvit.arguments.train import read
from localvit_det.checkpoint.search import search
from localvit_det.cli import (
    config_from,
    handle_user_errors,
    options_of,
    work_dir_of,
)
from localvit_det.config.read import read_config_file
from localvit_det.config.run import Run, changes, find_old_run, find_run, remember, say_unknown
from localvit_det.config.schedules import follow_length
from localvit_det.engine.fitting_batch import fitting_batch
from localvit_det.engine.hooks import DryRunDone, DryRunHook
from localvit_det.engine.processes import launched_rank, lock_work_dir
from localvit_det.preflight import check_config
from localvit_det.switches import SWITCHES, check_loggers


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, check everything that can be checked, train."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = read(argv)
    if options_of(args).get("batch") == "auto":
        # The dry runs' own --batch comes last, which counts.
        args.cfg_options["batch"] = fitting_batch(argv)
    if args.pretrained:
        args.cfg_options = {"pretrained": args.pretrained, **(args.cfg_options or {})}
    if args.load_from:
        args.cfg_options = {"load_policy": "finetune", "load_from": args.load_from, **(args.cfg_options or {})}
    run = run_to_resume(args)
    cfg = config_from(args, run)
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == "auto" else args.resume
    for name, one in SWITCHES.items():
        if getattr(args, name) is not None:
            one.apply(cfg, getattr(args, name))
    check_loggers(cfg)
    if run is not None:
        run.check(cfg, options_of(args))
        args.cfg_options = {**(args.cfg_options or {}), **follow_changed_length(cfg, run)}
    remember(cfg, args.config, options_of(args), {name: getattr(args, name) for name in SWITCHES}, run)
    if launched_rank() == 0 and not args.dry_run:
        lock_work_dir(cfg.work_dir)  # before anything is written there
    check_config(cfg, train=True, before=args.unread)

    setup_cache_size_limit_of_dynamo()
    cfg.setdefault("runner_type", "ReliableRunner")
    if args.dry_run:
        try_one_batch(cfg)
    else:
        RUNNERS.build(cfg).train()


def run_to_resume(args: argparse.Namespace) -> Run | None:
    """Return the training to go on with, after its switches take their places among the arguments; None without one."""
    if not args.resume:
        return None
    if args.resume != "auto":
        place = args.resume
        if args.work_dir and Path(place).parent.resolve() == Path(args.work_dir).resolve():
            place = args.work_dir
    else:
        own = {"work_dir": str(work_dir)} if (work_dir := options_of(args).get("work_dir")) else None
        place = work_dir_of(args, own or read_config_file(Path(args.config), args.trust_config))
    if (run := find_run(place)) is None:
        if args.resume != "auto" or search(place).found:
            say_unknown(place)
        return find_old_run(place)
    for name, value in run.switches.items():
        if name in SWITCHES and getattr(args, name) is None and name.replace("_", "-") not in args.without:
            setattr(args, name, value)
    return run


def follow_changed_length(cfg: Config, run: Run) -> dict[str, Any]:
    """Let what is made for the length of a run follow another one, but for what has changed as well; return how."""
    changed = changes(run.config, cfg)
    for key in ("max_epochs", "max_iters"):
        was, now = (one.get("train_cfg", {}).get(key) for one in (run.config, cfg))
        if was and now and was != now:
            found = follow_length(cfg, was, now, by_epoch=key == "max_epochs")
            wholes = {"param_scheduler", "switch_epoch", "dynamic_intervals"}
            kept = wholes & {part for name in changed for part in name.split(".")}
            found = {name: value for name, value in found.items() if not kept & set(name.split("."))}
            cfg.merge_from_dict(found)
            return found
    return {}


def try_one_batch(cfg: Config) -> None:
    """Train for one iteration in a temporary work dir, and tell how it went."""
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
