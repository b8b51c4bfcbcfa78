"""MMEngine's Runner for trainings that are left alone for days."""

from __future__ import annotations

from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..checkpoint.find import nothing_to_resume, search
from ..errors import UserError
from .checkpoint_hook import SafeCheckpointHook

_STOCK_CHECKPOINT_HOOKS = ("CheckpointHook", "mmengine.CheckpointHook")


@RUNNERS.register_module()
class ReliableRunner(Runner):
    """Trains as MMEngine's Runner does, and loses nothing when it is stopped, killed or runs out of disk.

    docs/reliability.md has the cases. What protects is not left to `custom_hooks`, which a config may replace.
    """

    # ---- checkpoints

    def register_default_hooks(self, hooks: dict[str, Hook | dict] | None = None) -> None:
        """Registers the default hooks, with `SafeCheckpointHook` in the place of MMEngine's."""
        hooks = dict(hooks or {})
        hooks.setdefault("checkpoint", {"type": "CheckpointHook", "interval": 1})
        for name, hook in hooks.items():
            if isinstance(hook, dict) and hook.get("type") in _STOCK_CHECKPOINT_HOOKS:
                hooks[name] = {**hook, "type": "SafeCheckpointHook", "_scope_": "mmdet"}
        super().register_default_hooks(hooks)

    @property
    def checkpoint_hook(self) -> SafeCheckpointHook | None:
        """The hook that saves, None where the config has switched it off."""
        return next((hook for hook in self.hooks if isinstance(hook, SafeCheckpointHook)), None)

    def load_or_resume(self) -> None:
        """Loads what was asked for; `resume` without a file finds the newest usable checkpoint by itself.

        Raises:
            CheckpointError: There are checkpoints in the work dir, and none can be used.
        """
        if not self._has_loaded and self._resume and self._load_from is None:
            self._load_from = self._newest_checkpoint()
            self._resume = self._load_from is not None
        super().load_or_resume()

    def _newest_checkpoint(self) -> str | None:
        """Decided by the first process for all: they may see a shared disk differently."""
        answer: list[str | UserError | None] = [None]
        if dist.is_main_process():
            try:
                answer[0] = self._search_newest()
            except UserError as error:
                answer[0] = error
        dist.broadcast_object_list(answer)
        if isinstance(answer[0], UserError):
            raise answer[0]
        return answer[0]

    def _search_newest(self) -> str | None:
        hook = self.checkpoint_hook
        found = search(hook.folder(self) if hook else self.work_dir)
        newest = found.newest(resumable=True)
        if newest is not None:
            ignored = found.complaints()
            self.logger.info(
                "Going on from %s (%s), the newest usable checkpoint of %s%s.",
                newest.path.name,
                newest.place,
                found.folder,
                f"; {ignored}" if ignored else "",
            )
            return str(newest.path)
        if found.found or found.damaged:
            raise nothing_to_resume(found)
        self.logger.info("There is no checkpoint in %s to resume from: starting from the beginning.", found.folder)
        return None
