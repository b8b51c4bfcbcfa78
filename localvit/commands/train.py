"""Trains a detector, as `localvit.arguments.models` says."""

from __future__ import annotations

import argparse
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from localvit.arguments.models import read_train
from localvit_det.checkpoint.search import checkpoint_file, file_to_resume, search
from localvit_det.cli import config_from, handle_user_errors, options_of, work_dir_of
from localvit_det.config.load import read_config_file
from localvit_det.config.run import Run, changes, find_old_run, find_run, remember, say_unknown
from localvit_det.config.short_settings import follow_length
from localvit_det.engine.processes import launched_rank, lock_work_dir
from localvit_det.errors import ConfigError, NonFiniteError
from localvit_det.evaluation.record import peak_memory
from localvit_det.preflight import check_config
from localvit_det.switches import SWITCHES, check_loggers


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> Runner | None:
    """Read the arguments, check everything that can be checked, train; return what has trained."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = read_train(argv)
    if options_of(args).get("batch") == "auto":
        # The dry runs' own --batch comes last, which counts.
        args.cfg_options["batch"] = fitting_batch(argv)
    start: dict[str, str] = {}
    if args.load_from:
        start |= {"load_policy": "finetune", "load_from": checkpoint_file(args.load_from)}
    if args.pretrained:
        start["pretrained"] = "official" if args.pretrained == "official" else checkpoint_file(args.pretrained)
    args.cfg_options = {**start, **(args.cfg_options or {})}
    run = run_to_resume(args)
    cfg = config_from(args, run)
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == "auto" else file_to_resume(args.resume)
    # One that the config's custom_imports have added is no argument of this call.
    switches = {name: getattr(args, name, None) for name in SWITCHES}
    for name, value in switches.items():
        if value is not None:
            SWITCHES[name].apply(cfg, value)
    check_loggers(cfg)
    if run is not None:
        run.check(cfg, options_of(args))
        args.cfg_options = {**(args.cfg_options or {}), **follow_changed_length(cfg, run)}
    remember(cfg, args.config, options_of(args), switches, run)
    if launched_rank() == 0 and not args.dry_run:
        lock_work_dir(cfg.work_dir)  # before anything is written there
    check_config(cfg, train=True, before=args.unread)

    setup_cache_size_limit_of_dynamo()
    cfg.setdefault("runner_type", "ReliableRunner")
    if args.dry_run:
        try_one_batch(cfg)
        return None
    runner = RUNNERS.build(cfg)
    runner.train()
    return runner


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
        if name in SWITCHES and getattr(args, name, None) is None and name.replace("_", "-") not in args.without:
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


class DryRunDone(Exception):
    """Everything has worked; the message says what was seen."""


class DryRunHook(Hook):
    """End a training after its first step, and after one batch of the validation.

    Until then all is as in the real run: data, weights, the optimizer's step.

    Raises:
        DryRunDone: Always, where nothing else is raised before.
        NonFiniteError: The losses of the first batch are not finite.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        self._started = 0.0

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Look at what came out, and end the training."""
        seconds = time.perf_counter() - self._started
        losses = {name: value.item() for name, value in (outputs or {}).items() if name.startswith("loss")}
        broken = [name for name, value in losses.items() if not math.isfinite(value)]
        if broken:
            raise NonFiniteError(
                f"In the first batch {', '.join(broken)} is not finite: look at its images and weights."
            )
        validated = "without validation"
        if runner.val_loop is not None:
            loader = runner.val_dataloader
            runner.model.eval()
            with torch.no_grad():
                found = runner.model.val_step(next(iter(loader)))
            validated = f"a batch of {len(found)} images of the validation"
        size = len(data_batch["inputs"]) if isinstance(data_batch, dict) and "inputs" in data_batch else "?"
        memory = peak_memory()
        raise DryRunDone(
            f"Everything works: one step with {size} images took {seconds:.1f} s, the first is the slowest "
            f"({runner.max_iters} are planned), {validated} went through"
            f"{f', and {memory / 2**30:.2f} GiB of memory were used at most' if memory else ''}; "
            + ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
            + ". Nothing was written to the work dir."
        )


def try_one_batch(cfg: Config) -> None:
    """Train for one iteration in a temporary work dir, and report how it went."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        cfg.work_dir = folder
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.get("type") != "CurvesHook"]  # it draws at exit
        # Of the config's own library; under another name, since there is one of each.
        cfg.visualizer = {**(cfg.get("visualizer") or {"type": "Visualizer"}), "vis_backends": None, "name": "dry run"}
        runner = RUNNERS.build(cfg)
        runner.register_hook(DryRunHook())
        try:
            runner.train()
        except DryRunDone as done:
            if runner.rank == 0:
                print(done)


_SHARE = 0.7  # of the memory: batches differ in their images and objects
_MOST = 16  # images: the rates of recipes were tried up to there
_LEAST = 0.01  # GiB that an image takes, as dry runs print it


def fitting_batch(argv: Sequence[str]) -> int:
    """Measure what a training takes, in processes of their own, and return the batch that fits on this device.

    Args:
        argv: The arguments of `localvit train`, without the batch.

    Raises:
        ConfigError: A dry run fails, or one of several processes asks.
    """
    if os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1")) != "1":
        raise ConfigError("batch=auto measures in one process: give a number to a training in several.")
    one, two = (_peak(argv, size) for size in (1, 2))
    image = max(two - one, _LEAST)
    if torch.cuda.is_available():
        there = torch.cuda.mem_get_info()[0]
    else:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = _SHARE * there / 2**30
    batch = int(max(1, min(_MOST, (free - one) / image + 1)))
    print_log(
        f"batch=auto: {batch}, at {image:.2f} GiB for each image and {max(one - image, 0):.2f} GiB for the rest, in "
        f"{_SHARE:.0%} of {there / 2**30:.1f} GiB.",
        "current",
    )
    return batch


def _peak(argv: Sequence[str], size: int) -> float:
    command = [sys.executable, "-m", "localvit", "train", *argv, "--dry-run", "--batch", str(size)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    found = re.search(r"([\d.]+) GiB of memory", done.stdout)
    if done.returncode or found is None:
        reason = (done.stderr.strip().splitlines() or ["no memory was measured"])[-1]
        raise ConfigError(f"batch=auto: a dry run with {size} images fails ({reason}): correct that, or give a number.")
    return float(found[1])
