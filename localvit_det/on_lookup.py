"""Imported by MMEngine's registries before they look a name up: see `localvit_det.registration`."""

from .registration import is_possible, register

if is_possible():
    register()
