"""What the rest of this package takes from its neighbours."""

from ..layers.fuse import fuse_into_previous as fuse_conv_bn
from ..layers.modes import cpu_inference
from ..layers.packed import _NONE as NO_ACTIVATION
from ..layers.packed import PackedPointwise as PackedConv1x1
from ..layers.packed import _dtype as product_dtype
from ..layers.packed import _onednn_activation as onednn_activation

__all__ = ["NO_ACTIVATION", "PackedConv1x1", "cpu_inference", "fuse_conv_bn", "onednn_activation", "product_dtype"]
