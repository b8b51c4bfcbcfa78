"""The one gate that weights pass on their way into a model: convert, report, and refuse what does not fit.

MMEngine's own `load_state_dict` only warns where names or shapes differ, and training goes on from random
weights. Everything in OpenMMLab that loads ends there, so it is the function that `patches` replaces.
Models without a backbone of this package load as ever, with the report in addition.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn

from .entrances import label_of
from .fit import Policy, compare, prepare
from .identify import backbones_in
from .layouts import plain_names
from .report import LoadReport

_mmengine_load_state_dict = mmengine_checkpoint.load_state_dict


def load_state_dict(module: nn.Module, state_dict: Mapping[str, Any], strict: bool = False, logger: Any = None) -> None:
    """Load weights, with MMEngine's signature.

    Args:
        module: The model.
        state_dict: Tensors by name in any known layout, or a checkpoint with such a dict in it.
        strict: Whether models of others must fit, too.
        logger: Where the report goes; the current logger of MMEngine by default.

    Raises:
        CheckpointError: The weights do not fit a model with a backbone of this package.
    """
    if is_model_wrapper(module) or isinstance(module, BaseTTAModel):
        module = module.get_submodule("module")
    facts = label_of(state_dict)
    logger = logger or "current"
    if not backbones_in(module):
        plain = plain_names(state_dict, backbone_alone=False, parts=[name for name, _ in module.named_children()])
        state_dict = plain if plain.keys() != state_dict.keys() else state_dict  # which may have metadata
        report = compare(module, state_dict, facts.get("source", "a state dict"))[0]
        _say(report, facts, logger)
        _mmengine_load_state_dict(module, state_dict, strict, logger)
        return
    policy = cast(Policy, facts.get("policy", "strict"))
    state, report = prepare(module, state_dict, policy, facts.get("source", "a state dict"))
    _say(report, facts, logger)
    module.load_state_dict(state, strict=False)


def _say(report: LoadReport, facts: Mapping[str, str], logger: Any) -> None:
    report.choice = facts.get("choice", "")
    print_log(str(report), logger, logging.WARNING if report.problems or report.choice else logging.INFO)
