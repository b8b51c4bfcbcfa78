"""Former home of `load_backbone`, which stays for one release."""

from __future__ import annotations

from ..deprecation import former_names

__getattr__ = former_names(__name__, {"load_backbone": "localvit_det.checkpoint.loading:load_backbone"})
