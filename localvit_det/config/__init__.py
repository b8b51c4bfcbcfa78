"""Configs: read, changed by options, completed by what the user should not have to repeat."""

from .load import SPLITS, load_config, set_data_root

__all__ = ["SPLITS", "load_config", "set_data_root"]
