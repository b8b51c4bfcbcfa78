"""Imported by MMEngine's registries before they look a name up: see `localvit_det.registration`."""

from .checkpoint import plain_init
from .registration import is_possible, register

if is_possible():
    register()
else:
    plain_init.install()
