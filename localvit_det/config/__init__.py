"""Configs: read, changed by options, completed by what the user should not have to repeat."""

from .load import load_config, set_data_root
from .utils import SPLITS

__all__ = ["SPLITS", "load_config", "set_data_root"]
