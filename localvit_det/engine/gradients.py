"""Gradients that wait for further iterations (`accumulative_counts`) are part of a training's state."""

import torch
from mmengine import dist
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner


def gather_gradients(runner: Runner) -> list[dict[str, torch.Tensor]] | None:
    """The gradients of every process by parameter name; None right after a step of the optimizer.

    All processes call it together; between two steps it sends gradients, else nothing.
    """
    own = {name: p.grad.detach().cpu() for name, p in _parameters(runner) if p.grad is not None}
    if not own:
        return None
    return dist.all_gather_object(own)


def wrappers_of(optim: OptimWrapper | OptimWrapperDict) -> list[OptimWrapper]:
    """Return the wrappers of all optimizers."""
    return list(optim.values()) if isinstance(optim, OptimWrapperDict) else [optim]


def accumulation_of(wrapper: OptimWrapper) -> int:
    """Return over how many iterations gradients are accumulated; 1 with wrappers of other frameworks."""
    return getattr(wrapper, "_accumulative_counts", 1)  # MMEngine keeps it nowhere else


def accumulation(runner: Runner) -> int:
    """Return the largest accumulation of a runner's optimizers."""
    return max(map(accumulation_of, wrappers_of(runner.optim_wrapper)))


def restore_gradients(runner: Runner, gradients: list[dict[str, torch.Tensor]], counts: int) -> None:
    """Puts back what `gather_gradients` returned.

    Args:
        counts: Over how many iterations they were accumulated.
    """
    if counts != accumulation(runner):
        runner.logger.warning(
            f"Gradients were accumulated over {counts} iterations, and are over {accumulation(runner)} now: those that "
            "wait in the checkpoint are dropped."
        )
        return
    if len(gradients) != dist.get_world_size():
        runner.logger.warning(
            "The checkpoint was saved between two steps of the optimizer by %d processes, now there are %d: what had "
            "been accumulated is dropped.",
            len(gradients),
            dist.get_world_size(),
        )
        return
    own = gradients[dist.get_rank()]
    for name, parameter in _parameters(runner):
        if name in own:
            parameter.grad = own[name].to(parameter.device, parameter.dtype)
    runner.logger.info("Gradients that wait for further iterations are restored with the checkpoint.")


def _parameters(runner: Runner) -> list[tuple[str, torch.nn.Parameter]]:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return list(model.named_parameters())
