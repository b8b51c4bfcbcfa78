"""The models that can be exported, each with its traceable form."""

from __future__ import annotations

from mmdet.models.detectors import DINO, CascadeRCNN, FasterRCNN, Mask2Former, MaskRCNN, RetinaNet, RTMDet
from torch import nn

from ..errors import ConfigError
from .dino import ExportableDINO
from .mask2former import ExportableMask2Former
from .module import ExportableModel, kind_of
from .rcnn import OneStage, TwoStage
from .rtmdet import ExportableRTMDet
from .segmentor import Segmentor

_FORMS: dict[type, type[ExportableModel]] = {
    RetinaNet: OneStage,
    FasterRCNN: TwoStage,
    MaskRCNN: TwoStage,
    CascadeRCNN: TwoStage,
    DINO: ExportableDINO,
    RTMDet: ExportableRTMDet,
    Mask2Former: ExportableMask2Former,
}
# Why a type of MMDetection's has no exportable form.
_FORMLESS = {
    "PanopticFPN": "it finds regions without objects as well, which an exported model has no output for",
}


def exportable(model: nn.Module) -> ExportableModel:
    """Return the traceable form of a model, whose layers it shares.

    Raises:
        ConfigError: There is none, since a part of it is unknown.
    """
    kind = kind_of(model)
    if reason := _FORMLESS.get(kind):
        raise ConfigError(f"A {kind} cannot be exported: {reason}; export its backbone alone with --backbone.")
    form = _form_of(type(model))
    wrong = (
        f"the type {kind}" if form is None else next((what for fits, what in form.requirements(model) if not fits), "")
    )
    if form is None or wrong:
        raise ConfigError(
            f"A model with {wrong} cannot be exported: those of the configs here can, with the parts that they have; "
            "export its backbone alone with --backbone."
        )
    return form(model).eval()


def _form_of(kind: type) -> type[ExportableModel] | None:
    # MMSegmentation may not be installed.
    if kind.__module__.startswith("mmseg.") and kind.__name__ == "EncoderDecoder":
        return Segmentor
    return _FORMS.get(kind)
