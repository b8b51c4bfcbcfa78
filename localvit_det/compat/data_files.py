"""Annotations and proposals are read by loaders that cannot run code.

MMEngine chooses by the ending of a file's name: for .pkl the loader of pickles, which may call anything, and for .yaml
PyYAML's loader of any Python object.
"""

from __future__ import annotations

from typing import IO, Any

import numpy as np
import yaml
from mmengine.fileio.handlers import PickleHandler, YamlHandler
from mmengine.fileio.handlers.registry_utils import file_handlers

from ..errors import DataError

_originals: dict[str, Any] = {}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """PyYAML's safe loader, and tuples, which MMEngine writes."""


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node)))


class SafeYamlHandler(YamlHandler):
    """Reads plain values only."""

    def load_from_fileobj(self, file: IO, **kwargs: Any) -> Any:
        """Return what a file holds."""
        return yaml.load(file, Loader=_Loader)


class RefusingPickleHandler(PickleHandler):
    """Writes pickles, and reads none."""

    def load_from_fileobj(self, file: IO, **kwargs: Any) -> Any:
        """Refuse.

        Raises:
            DataError: Always.
        """
        raise DataError(
            "A dataset or an evaluator of this config reads a pickle (.pkl), which may run code: convert the file to "
            "JSON, or set allow_pickle=True if you know who made it."
        )


def install() -> None:
    """Put the safe loader of YAML in MMEngine's place; doing so again changes nothing."""
    file_handlers["yaml"] = file_handlers["yml"] = SafeYamlHandler()


def allow_pickles(allowed: bool) -> None:
    """Let MMEngine and MMDetection's datasets read pickles from now on, or not."""
    from mmdet.datasets.openimages import OpenImagesChallengeDataset as Challenge

    def relations(self: Challenge, hierarchy_file: str) -> np.ndarray:
        return np.load(hierarchy_file, allow_pickle=False)[1:, 1:]

    _originals.setdefault("relations", Challenge._get_relation_matrix)
    Challenge._get_relation_matrix = _originals["relations"] if allowed else relations
    file_handlers["pkl"] = file_handlers["pickle"] = PickleHandler() if allowed else RefusingPickleHandler()
