"""Loaders of annotations and proposals that cannot run code.

MMEngine chooses by the ending of a file's name: for .pkl the loader of pickles, which may call anything, and for .yaml
PyYAML's loader of any Python object.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
import yaml
from mmengine.fileio import register_handler
from mmengine.fileio.handlers import PickleHandler, YamlHandler

from ..config_names import type_name
from ..errors import DataError

_ADVICE = "which may run code: convert the file to JSON, or set allow_pickle=True if you know who made it."


# Where PyYAML was built without libyaml, there is no loader in C; checkers cannot follow a base that is looked up.
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
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
        """Refuse to read.

        Raises:
            DataError: Always.
        """
        raise DataError(f"A dataset or an evaluator of this config reads a pickle (.pkl), {_ADVICE}")


def read_data_safely(allow_pickle: bool = False) -> None:
    """Let MMEngine read plain values only from YAML files, in this process from now on, and pickles where allowed."""
    register_handler(["yaml", "yml"])(SafeYamlHandler)
    register_handler(["pkl", "pickle"])(PickleHandler if allow_pickle else RefusingPickleHandler)


def check_hierarchy(dataset: Mapping[str, Any]) -> None:
    """Check that the class hierarchy of an OpenImages Challenge dataset, which MMDetection unpickles, is a plain array.

    Raises:
        DataError: It holds Python objects.
    """
    file = os.path.join(dataset.get("data_root") or "", str(dataset.get("hierarchy_file", "")))
    if type_name(dataset) != "OpenImagesChallengeDataset" or not os.path.isfile(file):
        return
    try:
        np.load(file, allow_pickle=False)
    except ValueError as error:
        raise DataError(f"The hierarchy_file {file} is a pickle, {_ADVICE}") from error
