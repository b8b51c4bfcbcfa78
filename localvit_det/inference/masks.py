"""Former place of `paste_masks`, which stays for one release."""

from ..deprecation import former_names

__getattr__ = former_names(__name__, {"paste_masks": "localvit_det.fused.roi_heads:paste_masks"})
