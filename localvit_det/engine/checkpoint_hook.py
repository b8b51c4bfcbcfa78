"""MMEngine's CheckpointHook with an order of steps in which nothing can be lost, and all of a training's state."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import HOOKS
from mmengine import dist
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner, save_checkpoint

from ..checkpoint.layouts import weights_in
from ..checkpoint.read import load_weights_only
from ..checkpoint.search import BEST, POINTER, check_saves_locally, search, steps_of
from ..errors import CheckpointError
from ..files import remove_drafts, write_text
from .non_finite import check_finite
from .optim import accumulative_counts
from .processes import unwrapped

INTERIM = "interim_iter_{}.pth"  # checkpoints between two regular ones: on a signal, and every so many minutes
BACKBONE_FILE = "backbone.pth"
# The last norm of a classifier, norm3 in Swin; a detector has one on each of its feature maps, and starts them anew.
# Where more stages have one, norms stand in the trunk (Twins-SVT) and the detector keeps all.
_OUT_NORM = re.compile(r"(out_norms\.|norm)\d\.")


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """Save as MMEngine's `CheckpointHook` does, and never remove a checkpoint before a newer one is in place.

    `ReliableRunner` puts it in the place of every `CheckpointHook`. Beyond MMEngine's: weights that are not finite
    are never saved; a checkpoint can be of the middle of an epoch; files that are not part of this training's past
    (of an earlier training in the same folder, or damaged) are moved into `set_aside/` when it starts.

    Args:
        every_minutes: Save also when so much time has passed since the last checkpoint; kept until the next
            regular one.
        settings: Arguments of `CheckpointHook`.
    """

    last_ckpt: str | None

    def __init__(self, every_minutes: float | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self._given = self.out_dir
        self.every_minutes = every_minutes
        self._saved_at = time.monotonic()
        self._gradients: list | None = None
        self.saved_iteration = -1  # after which the last checkpoint was saved

    # ---- start

    def folder(self, runner: Runner) -> Path:
        """Return where the checkpoints of a run go, also before MMEngine has decided it in `out_dir`.

        Raises:
            ConfigError: They go to no folder of this machine.
        """
        check_saves_locally(
            {"out_dir": self._given, "backend_args": self.backend_args, "file_client_args": self.file_client_args}
        )
        if self._given is None or str(self._given) == runner.work_dir:
            return Path(runner.work_dir)
        return Path(self._given, Path(runner.work_dir).name)

    def before_train(self, runner: Runner) -> None:
        """Clear the folder of what is not this training's, and take over what is."""
        self.folder(runner)
        super().before_train(runner)
        self._saved_at = time.monotonic()
        if dist.is_main_process():
            self._set_aside(runner)
        if self.max_keep_ckpts > 0:
            # What the folder holds, not what the checkpoint remembers: a kill may have come between the two.
            steps = sorted(step for step, _ in steps_of(self.filename_tmpl, Path(self.out_dir)))
            self.keep_ckpt_ids = deque(steps)
            self._remove_old()
        if self.save_best:
            self._move_best_paths(runner)

    def _set_aside(self, runner: Runner) -> None:
        remove_drafts(self.out_dir)
        folder = search(self.out_dir)
        names = ("epoch_{}.pth", "iter_{}.pth", INTERIM, self.filename_tmpl)
        ours = {path for name in names for _, path in steps_of(name, Path(self.out_dir))}
        ours |= set(folder.folder.glob(f"{BEST}*.pth"))
        later = [one.path for one in folder.found if runner.iter == 0 or one.iteration > runner.iter]
        stale = [path for path in (*later, *folder.damaged) if path in ours]
        if stale:
            target = folder.folder / "set_aside" / runner.timestamp
            target.mkdir(parents=True, exist_ok=True)
            for path in stale:
                path.replace(target / path.name)
            moved = ", ".join(path.name for path in stale)
            past = f" up to iteration {runner.iter}" if runner.iter else ""
            runner.logger.warning(f"{moved} in {folder.folder}: not of this training{past}, moved to {target}.")
        if not runner.iter:
            Path(runner.work_dir, POINTER).unlink(missing_ok=True)

    def _move_best_paths(self, runner: Runner) -> None:
        """Correct the absolute paths that a checkpoint remembers: after a move they lead to the original's files."""
        info = runner.message_hub
        for key in self._best_paths():
            name = f"best_ckpt_{key}" if key else "best_ckpt"
            if name in info.runtime_info:
                here = str(Path(self.out_dir, Path(info.get_info(name)).name))
                info.update_info(name, here)
                self._set_best_path(key, here)

    def _best_paths(self) -> dict[str, str | None]:
        """Return the best checkpoints by metric; where there is one metric, MMEngine keeps no name for it."""
        return {"": self.best_ckpt_path} if len(self.key_indicators) == 1 else dict(self.best_ckpt_path_dict)

    def _set_best_path(self, key: str, path: str | None) -> None:
        if key:
            self.best_ckpt_path_dict[key] = path
        else:
            self.best_ckpt_path = path

    # ---- saving

    def save_interim(self, runner: Runner) -> Path:
        """Save between two regular checkpoints, and return the file; all processes call it together."""
        return self._save(runner, INTERIM.format(runner.iter), {"epoch": runner.epoch, "iter": runner.iter})

    def save_final(self, runner: Runner) -> None:
        """Save where a training ends early, under a regular name, unless that has been done after this iteration."""
        if self.saved_iteration != runner.iter:
            step = runner.epoch if self.by_epoch else runner.iter
            self._save_checkpoint_with_step(runner, step, {"epoch": runner.epoch, "iter": runner.iter})

    def is_due(self) -> bool:
        """Whether `every_minutes` have passed since the last checkpoint."""
        return self.every_minutes is not None and time.monotonic() - self._saved_at > 60 * self.every_minutes

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if self.max_keep_ckpts > 0:
            if step not in self.keep_ckpt_ids:
                self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids)[-self.max_keep_ckpts :])
        self._save(runner, self.filename_tmpl.format(step), meta)
        if self.max_keep_ckpts > 0:
            self._remove_old()

    def _save(self, runner: Runner, name: str, meta: dict) -> Path:
        check_finite(runner)
        self._gradients = gather_gradients(runner)
        path = os.path.join(self.out_dir, name)
        previous, self.last_ckpt = self.last_ckpt, path
        runner.message_hub.update_info("last_ckpt", path)
        try:
            runner.save_checkpoint(
                self.out_dir,
                name,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                **self.args,
            )
        except BaseException:
            self.last_ckpt = previous
            raise
        finally:
            self._gradients = None
        if dist.is_main_process():
            write_text(Path(runner.work_dir, POINTER), path)
            # Everything older goes only now, when the new one and its pointer are on the disk.
            for _, interim in steps_of(INTERIM, Path(self.out_dir)):
                if interim.name != name:
                    interim.unlink(missing_ok=True)
        self._saved_at = time.monotonic()
        self.saved_iteration = meta["iter"]
        return Path(path)

    def _remove_old(self) -> None:
        while len(self.keep_ckpt_ids) > self.max_keep_ckpts:
            name = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
            self._remove(os.path.join(self.out_dir, name))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        # MMEngine removes the previous best checkpoint before it writes the new one: not one that it does not know of.
        before = self._best_paths()
        for key in before:
            self._set_best_path(key, None)
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            now = self._best_paths()
            for key in [key for key in before if now[key] is None]:
                self._set_best_path(key, before[key])
        for key, path in before.items():
            if path and now[key] not in (None, path) and Path(path).parent == Path(self.out_dir):
                self._remove(path)

    def _remove(self, path: str) -> None:
        if dist.is_main_process():
            with suppress(FileNotFoundError):
                os.remove(path)

    # ---- what goes into a checkpoint next to MMEngine's

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add gradients that wait for more, and the place in the data."""
        if hasattr(runner.train_loop, "position"):
            checkpoint["meta"]["position"] = runner.train_loop.position(checkpoint["meta"])
            checkpoint["meta"]["lr_factor"] = runner.guard.lr_factor
        checkpoint["meta"]["save_best"] = self.save_best
        if self._gradients is not None:
            checkpoint["gradients"] = self._gradients
            checkpoint["meta"]["accumulative_counts"] = accumulative_counts(runner.optim_wrapper)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put back what `before_save_checkpoint` has added, where a training is resumed."""
        if not runner._resume:
            return
        if hasattr(runner.train_loop, "resume_position"):
            runner.train_loop.resume_position(checkpoint["meta"])
        if checkpoint["meta"].get("save_best", self.save_best) != self.save_best:
            # The best of another number would hardly ever be passed.
            info = checkpoint["message_hub"]["runtime_info"]
            for key in [key for key in info if key.startswith(("best_score", "best_ckpt"))]:
                del info[key]
        if checkpoint.get("gradients") is not None:
            counts = checkpoint["meta"].get("accumulative_counts", accumulative_counts(runner.optim_wrapper))
            restore_gradients(runner, checkpoint["gradients"], counts)


def gather_gradients(runner: Runner) -> list[dict[str, torch.Tensor]] | None:
    """Return gradients that wait for further iterations, by process and parameter; None right after a step.

    All processes call it together; between two steps it sends gradients, else nothing.
    """
    own = {name: p.grad.detach().cpu() for name, p in unwrapped(runner.model).named_parameters() if p.grad is not None}
    return dist.all_gather_object(own) if own else None


def restore_gradients(runner: Runner, gradients: list[dict[str, torch.Tensor]], counts: int) -> None:
    """Put back what `gather_gradients` returned, which was accumulated over so many iterations."""
    now, processes = accumulative_counts(runner.optim_wrapper), dist.get_world_size()
    if counts != now:
        runner.logger.warning(
            f"Gradients were accumulated over {counts} iterations, and are over {now} now: those that "
            "wait in the checkpoint are dropped."
        )
        return
    if len(gradients) != processes:
        runner.logger.warning(
            f"The checkpoint was saved between two steps of the optimizer by {len(gradients)} processes, now there are "
            f"{processes}: what had been accumulated is dropped."
        )
        return
    own = gradients[dist.get_rank()]
    for name, parameter in unwrapped(runner.model).named_parameters():
        if name in own:
            parameter.grad = torch.empty_like(parameter).copy_(own[name])  # in the parameter's memory layout
    runner.logger.info("Gradients that wait for further iterations are restored with the checkpoint.")


# ---- the file of a backbone


@HOOKS.register_module()
class BackboneFileHook(Hook):
    """Write the backbone into the work dir at the end of a training, with EMAHook its averaged weights."""

    priority = "LOWEST"  # after the last checkpoint

    def after_run(self, runner: Runner) -> None:
        """Write `backbone.pth`; nothing after a test, or a training that saves no checkpoints."""
        hook = getattr(runner, "checkpoint_hook", None)
        checkpoint = getattr(hook, "last_ckpt", None)
        if checkpoint is None or not dist.is_main_process():
            return
        target = write_backbone(checkpoint, Path(runner.work_dir) / BACKBONE_FILE)
        runner.logger.info("The backbone is in %s: give it to tools/train.py as --pretrained.", target)


def write_backbone(checkpoint: str | Path, target: str | Path) -> Path:
    """Write a file of the backbone's weights alone, without the norm that a classifier has after its last stage only.

    Raises:
        CheckpointError: The checkpoint is not of a model with a part called `backbone`.
        OutputError: The file cannot be written.
    """
    content = load_weights_only(checkpoint)
    weights = weights_in(content) or {}
    state = {name.removeprefix("backbone."): tensor for name, tensor in weights.items() if name.startswith("backbone.")}
    out_norms = {match[0] for name in state if (match := _OUT_NORM.match(name))}
    if len(out_norms) == 1:
        state = {name: tensor for name, tensor in state.items() if not _OUT_NORM.match(name)}
    if not state:
        raise CheckpointError(f"{checkpoint} holds no backbone: give the checkpoint of a classifier or a detector.")
    meta = content.get("meta") or {}
    facts = {"source": Path(checkpoint).name, "epoch": meta.get("epoch"), "iter": meta.get("iter")}
    save_checkpoint({"state_dict": state, "meta": facts}, str(target))
    return Path(target)
