"""Export whole detectors: write one file, run it, and keep it only if it finds what the detector finds."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from mmdet.models.detectors import DINO, CascadeRCNN, FasterRCNN, Mask2Former, MaskRCNN, RetinaNet, RTMDet
from torch import nn

from ..checkpoint.config_text import as_text, to_json
from ..checkpoint.exported import Info
from ..checkpoint.publish import versions
from ..checkpoint.safe_config import take
from ..config.pipelines import image_pipeline, prepare
from ..datasets.synthetic_shapes import CLASSES, draw_image
from ..errors import ConfigError, ExportError
from ..files import check_writable
from ..fused import fused_copy
from .comparison import Agreement, PixelAgreement, compare_on
from .dense import ExportableRTMDet, OneStage, TwoStage
from .formats import ExportSpec, export_to, find_format
from .module import INPUTS, OBJECTS, ExportableModel, kind_of
from .queries import ExportableDINO, ExportableMask2Former
from .runtime import ExportedDetector
from .segmentor import Segmentor

if TYPE_CHECKING:
    from ..predict.detector import Detector

_FORMS: dict[type, type[ExportableModel]] = {
    RetinaNet: OneStage,
    FasterRCNN: TwoStage,
    MaskRCNN: TwoStage,
    CascadeRCNN: TwoStage,
    DINO: ExportableDINO,
    RTMDet: ExportableRTMDet,
    Mask2Former: ExportableMask2Former,
}
# Heights and widths of the synthetic images for the comparison, and of that which exporters follow.
_SHAPES, _EXAMPLE = ((240, 320), (320, 200), (320, 320)), (250, 320)


def export_detector(
    detector: Detector,
    path: str | os.PathLike,
    format: str | None = None,
    size: tuple[int, int] | None = None,
    images: Sequence[np.ndarray] = (),
    half: bool = False,
) -> list[Agreement] | list[PixelAgreement]:
    """Write a detector to a file of another runtime, run that, and return how far from its results those are by image.

    Args:
        detector: With its weights; it is left as it is. Its fused form is written.
        path: The file; of OpenVINO the .xml, next to which its .bin is written.
        format: As of `export_backbone`.
        size: Height and width, in pixels, of the images that the exported model takes; by default it takes any.
        images: To compare on, H×W×3, uint8, BGR; by default three synthetic ones.
        half: Compute layers in fp16, for ONNX; boxes, NMS and RoIAlign stay in fp32. More may differ then.

    Raises:
        ExportError: The detector or the format does not allow it, or the exported model finds something else; no file
            is left.
        OutputError: The file cannot be written.
    """
    kind = find_format(format, path)
    check_writable(path, "--out")
    module = exportable(fused_copy(copy.deepcopy(detector.model) if half else detector.model))
    if half:  # its own weights
        module.compute_in_half()
    info = _info(detector, module, size)
    pipeline = image_pipeline(detector.config, size)
    example = info.input_of(prepare(pipeline, synthetic_image(_EXAMPLE, seed=0))["inputs"])
    inputs = (*example, torch.tensor(info.score))  # a segmentor does not take the score
    axes = {INPUTS[0]: {2: "height", 3: "width"}, **module.outputs}
    if size:  # only the number of objects is free
        axes = {name: {axis: what for axis, what in free.items() if what == OBJECTS} for name, free in axes.items()}
    spec = ExportSpec(
        module=module,
        inputs=dict(zip(module.inputs, inputs, strict=False)),
        outputs=list(module.outputs),
        dynamic=axes,
        note=info.to_text(),
    )
    images = images or [synthetic_image(shape, seed) for seed, shape in enumerate(_SHAPES, start=1)]
    prepared = [prepare(pipeline, image) for image in images]
    with export_to(spec, path, kind) as run:
        return compare_on(detector.model, ExportedDetector(run, info), prepared, half)


def exportable(model: nn.Module) -> ExportableModel:
    """Return the traceable form of a model, whose layers it shares.

    Raises:
        ConfigError: There is none, since a part of it is unknown.
    """
    kind, instead = kind_of(model), "export its backbone alone with --backbone"
    if kind == "PanopticFPN":
        raise ConfigError(
            "A PanopticFPN cannot be exported: it finds regions without objects as well, which an exported model has "
            f"no output for; {instead}."
        )
    form = _FORMS.get(type(model))
    if kind == "EncoderDecoder" and type(model).__module__.startswith("mmseg."):  # which may not be installed
        form = Segmentor
    if form is None:
        wrong = f"the type {kind}"
    else:
        wrong = next((what for fits, what in form.requirements(model) if not fits), "")
    if form is None or wrong:
        raise ConfigError(
            f"A model with {wrong} cannot be exported: those of the configs here can, with the parts that they have; "
            f"{instead}."
        )
    return form(model).eval()


def synthetic_image(size: tuple[int, int], seed: int) -> np.ndarray:
    """Return an image of synthetic shapes, (height, width, 3), uint8, BGR."""
    image, _ = draw_image(np.random.default_rng(seed), max(size), CLASSES, "bright")
    return np.ascontiguousarray(image[: size[0], : size[1]])


def _info(detector: Detector, module: ExportableModel, size: tuple[int, int] | None) -> Info:
    """Return what the file will say about itself.

    Raises:
        ExportError: The size is no multiple of what the detector needs.
    """
    divisor = module.divisor
    if size is not None and (min(size) < divisor or any(side % divisor for side in size)):
        near = "x".join(str(max(1, round(side / divisor)) * divisor) for side in size)
        raise ExportError(f"The size {size[0]}x{size[1]} is no multiple of {divisor}: choose {near}, say.")
    mean, std = ([] if x is None else x.flatten().tolist() for x in (module.mean, module.std))
    config = detector.config.to_dict()
    try:
        text = to_json(take(config))  # what readers take without trust
    except ValueError:  # types of the user's own: the whole config, for those who trust it
        text = as_text(config)
    return Info(
        classes=tuple(detector.classes),
        config=text,
        size=None if size is None else (size[0], size[1]),
        divisor=divisor,
        score=float(module.settings.get("score_thr", 0.0)),
        mask_threshold=float(module.settings.get("mask_thr_binary", 0.5)),
        normalization={"mean": mean, "std": std, "swaps_channels": module.swap},
        outputs=tuple(module.outputs),
        align_corners=getattr(module, "align_corners", False),
        versions=versions(),
    )
