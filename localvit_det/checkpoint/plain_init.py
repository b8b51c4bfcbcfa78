"""`init_cfg=dict(type='Pretrained', ...)` of the networks where MMDetection is not installed.

MMEngine's own only warns where names differ, and those of official files all do. With MMDetection :mod:`.entrances` has
it for every model.
"""

from __future__ import annotations

from mmengine.logging import print_log
from mmengine.model import PretrainedInit, update_init_info
from torch import nn

from ..backbones.base import LocalViT
from .fit import load_backbone


class PlainPretrainedInit(PretrainedInit):
    """MMEngine's, but for our networks, which load as by `load_backbone`."""

    def __call__(self, module: nn.Module) -> None:
        """Load the file into ``module``.

        Raises:
            CheckpointError: It cannot be read, or does not fit.
        """
        if not isinstance(module, LocalViT):
            super().__call__(module)
            return
        print_log(str(load_backbone(module, self.checkpoint, self.prefix or "backbone.")), "current")
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=self._get_init_info())
