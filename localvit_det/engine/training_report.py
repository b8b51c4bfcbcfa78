"""What is about to be trained, and what came out of it, in a few lines of the log."""

from collections.abc import Mapping
from pathlib import Path

from mmdet.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner

from .coco_metrics import coco_rows, coco_table
from .curves import CURVES_FILE
from .gradients import accumulation, wrappers_of


@HOOKS.register_module()
class TrainingReportHook(Hook):
    """Logs the settings that decide a training before it, and results and files after it.

    Also after `runner.test()` and `runner.val()`, then with the results only.
    """

    priority = "LOWEST"  # after the checkpoint and the curves are written

    def __init__(self) -> None:
        self._metrics: Mapping[str, object] = {}
        self._evaluated = ""
        self._trained = False

    def before_train(self, runner: Runner) -> None:
        """Logs the settings, as they are after auto_scale_lr and resuming."""
        self._trained = True
        runner.model.train()  # MMDetection's ResNet and Swin freeze their first stages only then
        if is_main_process():
            runner.logger.info("Training: %s", "\n  ".join(_settings(runner)))

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Keeps the latest results."""
        self._metrics = metrics or {}
        self._evaluated = f"validation after iteration {runner.iter}" if self._trained else "validation"

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Keeps the results."""
        self._metrics, self._evaluated = metrics or {}, "test"

    def after_run(self, runner: Runner) -> None:
        """Logs one table, and after a training where everything is."""
        metrics, trained = self._metrics, self._trained
        self._metrics, self._trained = {}, False  # the same runner may go on with a test
        if not is_main_process():
            return
        if coco_rows(metrics):
            runner.logger.info("COCO results (%s):\n\n%s\n", self._evaluated, coco_table(metrics))
        if trained:
            lines = [f"{name:<16} {place}" for name, place in _files(runner).items()]
            runner.logger.info("Saved:\n  %s", "\n  ".join(lines))


def _settings(runner: Runner) -> list[str]:
    loader, wrappers = runner.train_dataloader, wrappers_of(runner.optim_wrapper)
    # With a batch sampler of its own (MMDetection's default) the loader's batch_size is None.
    per_process = getattr(loader.batch_sampler, "batch_size", loader.batch_size)
    accumulated = accumulation(runner)
    batch = per_process * runner.world_size * accumulated
    groups = [group for wrapper in wrappers for group in wrapper.optimizer.param_groups]
    # The schedulers (warm-up) have already changed 'lr'; 'initial_lr' is theirs, and absent without them.
    base_lrs = [group.get("initial_lr", group["lr"]) for group in groups]
    parameters = list(runner.model.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)

    length = f"{runner.max_iters} iterations"
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        length += f" ({runner.max_epochs} epochs)"
    if runner.iter:
        length += f", going on after iteration {runner.iter}"
    scaling = runner.auto_scale_lr or {}
    scaled = f", scaled from a batch of {scaling['base_batch_size']}" if scaling.get("enable") else ""
    factors = f"{per_process} per process x {runner.world_size} processes x {accumulated} accumulated"
    lines = [
        f"batch {batch} ({factors}), "
        f"learning rate {_lr_range(base_lrs)} (now {_lr_range([group['lr'] for group in groups])}{scaled})",
        f"{len(loader.dataset)} images, {length}, {trainable:,} of {sum(p.numel() for p in parameters):,} "
        f"parameters trained{_frozen(runner)}",
    ]
    if not scaling.get("enable") and scaling.get("base_batch_size", batch) != batch:
        lines.append(
            f"The config's learning rate is meant for a batch of {scaling['base_batch_size']}: "
            "--auto-scale-lr would fit it to this one."
        )
    return lines


def _frozen(runner: Runner) -> str:
    """What of the backbone stays as it is, for a sentence's end."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    stages = getattr(getattr(model, "backbone", None), "frozen_stages", -1)
    if stages < 0:
        return ""
    of_stages = "" if stages == 0 else f" and first {stages} stages" if stages > 1 else " and first stage"
    return f" (the backbone's stem{of_stages} frozen)"


def _lr_range(rates: list[float]) -> str:
    low, high = min(rates), max(rates)
    return f"{high:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _files(runner: Runner) -> dict[str, str]:
    """What a training has left behind; only what is really there."""
    info = runner.message_hub.runtime_info
    log = Path(runner.log_dir)
    files = {"work dir": runner.work_dir}
    candidates = {
        "last checkpoint": info.get("last_ckpt"),
        # One entry, or one per metric where save_best lists several.
        **{
            key.replace("best_ckpt", "best checkpoint"): path
            for key, path in info.items()
            if key.startswith("best_ckpt")
        },
        "curves": Path(runner.work_dir) / CURVES_FILE,
        "log": log / f"{runner.timestamp}.log",
        "json log": log / "vis_data" / f"{runner.timestamp}.json",
    }
    return files | {name: str(path) for name, path in candidates.items() if path and Path(path).exists()}
