"""Evaluates a checkpoint, as `localvit.arguments.models` says."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.registry import RUNNERS

from localvit.arguments.models import read_test
from localvit_det.analysis.coco import evaluate
from localvit_det.analysis.data import read_splits
from localvit_det.analysis.report import write_report
from localvit_det.checkpoint.exported import is_exported, read_info
from localvit_det.checkpoint.read import saved_classes
from localvit_det.checkpoint.search import checkpoint_file
from localvit_det.cli import also_unread, config_from, handle_user_errors, options_of
from localvit_det.config.discovery import orders_classes
from localvit_det.config.run import OF_TESTS, Run, find_run, say_unknown
from localvit_det.config.utils import find_datasets
from localvit_det.engine.reporting import coco_table
from localvit_det.errors import CheckpointError, ConfigError
from localvit_det.evaluation import use_fast_eval
from localvit_det.evaluation.record import dump_metric, keep_predictions, write_record
from localvit_det.evaluation.tta import use_tta
from localvit_det.export.runtime import run_exported
from localvit_det.preflight import check_config
from localvit_det.preflight.classes import dataset_classes
from localvit_det.visualization import draw_predictions


@handle_user_errors
def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Read the arguments, check everything that can be checked, evaluate; return the metrics."""
    args = read_test(argv)
    if args.predictions:
        return score(args)
    if args.checkpoint is None:
        args.checkpoint, run = checkpoint_with_config(args.config), find_run(args.config)
        if not Path(args.config).is_dir():  # a work dir has the config of its training
            args.config = str(run.source.parent) if run else args.checkpoint
        cfg = config_from(args)
    else:
        run = find_run(args.checkpoint)
        if run is None and Path(args.checkpoint).is_dir():
            say_unknown(args.checkpoint)
        cfg = config_from(args, run)
    given = options_of(args)
    cfg.load_from = checkpoint_file(args.checkpoint)
    program = is_exported(args.checkpoint)
    with also_unread(args):
        if args.checkpoint != args.config:
            cfg = with_classes_of_checkpoint(args, cfg, None if Path(args.config).is_dir() else run)
        if run is not None:
            run.check(cfg, given, OF_TESTS)
    if program:
        cfg.load_from = None
        if args.tta:
            raise ConfigError(
                f"--tta merges what a model computes inside, and {args.checkpoint} is an exported model: leave it out."
            )
    if args.show or args.show_dir:
        # Absolute, so that images land in the folder itself and not below a time stamp of the work dir.
        args.show_dir = args.show_dir and str(Path(args.show_dir).absolute())
        draw_predictions(cfg, args.show, args.show_dir, args.wait_time)
    if args.fast_eval:
        use_fast_eval(cfg)
    if args.report or args.record:
        keep_predictions(cfg)
    plain = args.no_fuse or program
    others = [hook for hook in cfg.get("custom_hooks") or [] if hook.get("type") != "FusedEvaluationHook"]
    cfg.custom_hooks = others if plain else [*others, {"type": "FusedEvaluationHook"}]
    check_config(cfg, train=False, before=args.unread)
    if args.tta:
        use_tta(cfg)  # the model is now in another one

    if program:
        run_exported(cfg, args.checkpoint, args.trust_config)
    setup_cache_size_limit_of_dynamo()
    cfg.setdefault("runner_type", "ReliableRunner")
    runner = RUNNERS.build(cfg)
    if args.out:
        # Written whole or not at all, as everything that MMEngine writes here: patches.py.
        runner.test_evaluator.metrics.append(dump_metric(cfg, args.out))
    metrics = runner.test()
    if (args.report or args.record) and is_main_process():
        write_record(runner, metrics)
    if args.report and is_main_process():
        print(f"written: {write_report(cfg.work_dir)}")
    return metrics


def score(args: argparse.Namespace) -> dict[str, float]:
    """Score predictions with the annotations that a config tests on: all their images and classes.

    Raises:
        DataError: The annotations are none of COCO's format, or the predictions are of others.
    """
    (split,) = read_splits(config_from(args), ["test"])
    metrics = evaluate(split.file, args.predictions).metrics()
    print(f"COCO results ({args.predictions}, scored with {split.file}):\n{coco_table(metrics)}")
    return metrics


def checkpoint_with_config(given: str) -> str:
    """Return the checkpoint where nothing else is given.

    Raises:
        ConfigError: It is a config.
        CheckpointError: It is a work dir without a checkpoint.
    """
    file = checkpoint_file(given)
    if Path(file).suffix in ("", ".py"):
        raise ConfigError(f"The checkpoint is missing: give it after the config, `localvit test {given} CHECKPOINT`.")
    return file


def with_classes_of_checkpoint(args: argparse.Namespace, cfg: Config, run: Run | None = None) -> Config:
    """Return the config, with its classes in the order in which the checkpoint was trained on them.

    Raises:
        CheckpointError: It was trained on as many classes, but on others.
    """
    file = cfg.load_from
    # The option, or what a config in MMDetection's way says at the dataset.
    named = (dataset_classes(path, dataset) for path, dataset in find_datasets(cfg, "test"))
    classes = cfg.get("classes") or next(named, None)
    if not classes:
        return cfg
    saved = read_info(file).classes if is_exported(file) else saved_classes(file)
    if not saved or saved == tuple(classes) or len(saved) != len(classes):  # other numbers: the loading reports it
        return cfg
    if set(saved) == set(classes) and orders_classes(cfg):
        args.cfg_options = {**(args.cfg_options or {}), "classes": list(saved)}
        cfg = config_from(args, run)
        cfg.load_from = file
        return cfg
    raise CheckpointError(
        f"{file} was trained on the classes {', '.join(saved)}, and the data have {', '.join(classes)}, whose order "
        "counts: give the data that belong to it, or bring the categories of their annotation files in its order."
    )
