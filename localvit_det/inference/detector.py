"""A whole detector for inference: its backbone, and what surrounds it."""

from __future__ import annotations

from torch import nn

from ..layers import fuse_children


def fuse_detector(model: nn.Module) -> nn.Module:
    """Prepare a detector for inference: the same boxes, classes and masks, faster.

    The backbone is fused as by its ``fuse()``. Of MMDetection's parts, FPN, RPN and RetinaNet heads, RoI extractors,
    box and mask heads and ResNets are replaced by forms that give the same numbers up to rounding: BatchNorms folded,
    weights packed, 3×3 convolutions in fp32 multiplied in Winograd's way, masks only of the classes that were found.
    What is unknown, or configured in an unusual way, stays as it is. Elsewhere than on a CPU, or where gradients are
    recorded, forms work as the originals do.

    Weights are to be loaded before: where a BatchNorm is folded, the state dict changes. The model is put into eval
    mode and should not be trained any more. Hooks on replaced layers are gone. Doing so again changes nothing.

    Args:
        model: The detector, or any module that holds such parts; it is changed.

    Returns:
        The model itself.
    """
    # Imported only here: it needs MMDetection's models, which take a while.
    from . import dense, masks, resnet, roi  # noqa: F401 - they register forms

    model.eval()
    fuse_children(model)
    return model
