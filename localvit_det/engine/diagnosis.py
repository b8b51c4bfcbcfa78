"""Where in a model, and in which images, numbers have stopped being finite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from .batches import seed_iteration

_MOST_IMAGES = 8


def first_layer(runner: Any, data_batch: Any) -> str:
    """Runs the forward pass of the present iteration again, with its random numbers, and watches every layer.

    Returns:
        Half a sentence with the first layer whose output is not finite, or with what else it can say; empty where
        all outputs are finite.
    """
    from .checkpoint_hook import first_non_finite

    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    weight = first_non_finite(model)
    if weight is not None:
        return f"the weight {weight} is not finite"
    found: list[str] = []

    def watch(name: str, layer: nn.Module) -> Any:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            # A layer that only hands on what it was given is not the first.
            if not found and not all(t.isfinite().all() for t in _tensors(output)):
                found.append(f"{name} ({type(layer).__name__})")

        return layer.register_forward_hook(look)

    handles = [watch(name, layer) for name, layer in model.named_modules() if name]
    try:
        seed_iteration(runner.train_loop.base_seed, runner.iter)
        with torch.no_grad(), runner.optim_wrapper.optim_context(model):
            model._run_forward(model.data_preprocessor(data_batch, True), mode="loss")
    except Exception as error:  # a diagnosis is never worth a second failure
        if not found:
            return f"a second look failed with {type(error).__name__}"
    finally:
        for handle in handles:
            handle.remove()
    return f"first in the output of {found[0]}" if found else ""


def images_of(data_batch: Any) -> list[str]:
    """Paths of the images of a batch, as far as the samples know them."""
    samples = data_batch.get("data_samples", []) if isinstance(data_batch, dict) else []
    paths = []
    for sample in samples if isinstance(samples, (list, tuple)) else []:
        info = sample if isinstance(sample, dict) else getattr(sample, "metainfo", {})
        path = info.get("img_path") or info.get("img_id")
        if path is not None:
            paths.append(str(path))
    if len(paths) > _MOST_IMAGES:
        paths[_MOST_IMAGES:] = [f"and {len(paths) - _MOST_IMAGES} more"]
    return paths


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
