"""Why a test has found nothing at all."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from ..config.utils import walk

_IMAGES = 16  # that are tried again without a threshold
_LIMIT = "score_thr"


def explain_no_detections(runner: Runner) -> str:
    """Return a sentence with the highest score in the first images of a test and the threshold above it."""
    what = "No image has a single detection, so AP is 0"
    limits = [(path, node[_LIMIT]) for path, node in walk(runner.cfg.get("model"), "model") if node.get(_LIMIT)]
    if not limits:
        return f"{what}."
    path, limit = limits[0]
    path = path.replace("model.module.", "model.")  # of --tta
    highest, count = _highest_score(runner)
    there = f"the first {count} images have no score above {highest:.3g}" if count else "no image could be tried again"
    return (
        f"{what}: {there}, and {path}.{_LIMIT}={limit:g} keeps higher scores only. Check that the weights are trained, "
        "and on images and classes like these."
    )


@torch.no_grad()
def _highest_score(runner: Runner) -> tuple[float, int]:
    """Return the highest score without thresholds, 0 where there is none, and the number of images."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    changed = [(node, node[_LIMIT]) for node in _settings(model) if node.get(_LIMIT)]
    highest, count = 0.0, 0
    try:
        for node, _ in changed:
            node[_LIMIT] = 0.0
        for batch in runner.test_dataloader:
            for sample in model.test_step(batch):
                scores = sample.pred_instances.scores
                highest = max([highest, *scores[scores.isfinite()].tolist()])
                count += 1
            if count >= _IMAGES:
                break
    finally:
        for node, limit in changed:
            node[_LIMIT] = limit
    return highest, count


def _settings(model: nn.Module) -> list[dict[str, Any]]:
    """Return what the parts of a detector keep of `test_cfg`."""
    return [node for module in model.modules() for _, node in walk(getattr(module, "test_cfg", None))]
