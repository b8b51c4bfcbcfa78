"""What may fail to fit when weights are loaded, and who says so: a config's `load_policy`, or an `init_cfg`."""

from __future__ import annotations

from typing import Any, Literal, get_args

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.model import PretrainedInit as MMEnginePretrainedInit
from mmengine.model import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner import BaseLoop, Runner
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn

from ..errors import CheckpointError
from .container import label, label_of, weights_in

# strict: everything must fit; finetune: heads for other classes start new; partial: whatever fits is taken.
Policy = Literal["strict", "finetune", "partial"]
POLICIES: tuple[str, ...] = get_args(Policy)


@HOOKS.register_module()
class LoadPolicyHook(Hook):
    """Applies the config's `load_policy` to the checkpoint of `load_from`; `load_config` adds it.

    Resuming and testing never start new heads: there 'finetune' counts as 'strict'.
    """

    priority = "VERY_HIGH"  # before EMAHook, which loads the checkpoint, too

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Labels the weights on their way into the model.

        Raises:
            CheckpointError: A training cannot go on from what is no training's checkpoint.
        """
        if runner._resume and not {"message_hub", "meta"} <= set(checkpoint):
            raise CheckpointError(
                f"{label_of(weights_in(checkpoint) or {}).get('source', 'The checkpoint')} was not saved in a training "
                "of MMEngine, so there is nothing to resume: start from its weights with --load-from instead."
            )
        policy = runner.cfg.get("load_policy") or "strict"
        training = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        if policy == "finetune" and not training:
            policy = "strict"
        weights = weights_in(checkpoint)
        if weights is not None:
            checkpoint["state_dict"] = label(weights, policy=policy)


@WEIGHT_INITIALIZERS.register_module(name="Pretrained", force=True)
class PretrainedInit(MMEnginePretrainedInit):
    """MMEngine's `dict(type='Pretrained', ...)`, with one more key and sentences instead of assertions.

    Args:
        checkpoint: Path or https address.
        prefix: Take only tensors whose names begin so, without that beginning; 'backbone.' for a detector's.
        map_location: As in `torch.load`.
        partial: Take what fits and leave the rest as initialised.
    """

    def __init__(
        self, checkpoint: str, prefix: str | None = None, map_location: str = "cpu", partial: bool = False
    ) -> None:
        super().__init__(checkpoint, prefix, map_location)
        self.partial = partial

    def __call__(self, module: nn.Module) -> None:
        """Load the file into ``module``.

        Raises:
            CheckpointError: It has no tensor under the prefix, or does not fit.
        """
        content = mmengine_checkpoint.CheckpointLoader.load_checkpoint(self.checkpoint, self.map_location)
        state = weights_in(content)
        if state is None:
            state = content
        source = label_of(state).get("source", self.checkpoint)
        state = {name.removeprefix("module."): value for name, value in state.items()}
        if self.prefix:
            prefix = self.prefix.rstrip(".") + "."
            state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            if not state:
                raise CheckpointError(
                    f"{source} has no tensor whose name begins with {prefix}: correct the prefix of the init_cfg, or "
                    "leave it out if the file holds a backbone alone."
                )
        state = label(state, source=source, policy="partial" if self.partial else "strict")
        mmengine_checkpoint.load_state_dict(module, state, strict=False, logger="current")
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=self._get_init_info())
