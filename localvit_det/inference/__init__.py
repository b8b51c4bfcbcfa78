"""Former name of `localvit_det.fused`, which stays for one release."""

from ..deprecation import former_names

_NAMES = ("FusedBlock", "PackedConv1x1", "fuse_conv_bn", "fuse_detector")
_HERE = {name: f"localvit_det.fused:{name}" for name in _NAMES}
__getattr__ = former_names(__name__, _HERE | {"fused_twin": "localvit_det.fused:fused_copy"})
