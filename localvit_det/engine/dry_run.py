"""A training that ends after its first iteration, to see that everything works."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..errors import NonFiniteError


class DryRunDone(Exception):
    """Everything has worked; the message says what was seen."""


class DryRunHook(Hook):
    """Ends a training after its first step, and after one batch of the validation.

    Until then all is as in the real run: data, weights, the optimizer's step.

    Raises:
        DryRunDone: Always, where nothing else is raised before.
        NonFiniteError: The losses of the first batch are not finite.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        self._started = 0.0

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Looks at what came out, and ends the training."""
        seconds = time.perf_counter() - self._started
        losses = {name: value.item() for name, value in (outputs or {}).items() if name.startswith("loss")}
        broken = [name for name, value in losses.items() if not torch.isfinite(torch.tensor(value))]
        if broken:
            raise NonFiniteError(
                f"In the first batch {', '.join(broken)} is not finite: look at its images and weights."
            )
        validated = "without validation"
        if runner._val_loop is not None:
            loader = runner.val_dataloader
            runner.model.eval()
            with torch.no_grad():
                found = runner.model.val_step(next(iter(loader)))
            validated = f"a batch of {len(found)} images of the validation"
        size = len(data_batch["inputs"]) if isinstance(data_batch, dict) and "inputs" in data_batch else "?"
        memory = _peak_memory()
        raise DryRunDone(
            f"Everything works: one step with {size} images took {seconds:.1f} s, the first is the slowest "
            f"({runner.max_iters} are planned), {validated} went through"
            f"{f', and {memory / 2**30:.1f} GiB of memory were used at most' if memory else ''}; "
            + ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
            + ". Nothing was written."
        )


def _peak_memory() -> int | None:
    """Bytes that the GPU, or else the process, has used at most; None where nobody tells."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
