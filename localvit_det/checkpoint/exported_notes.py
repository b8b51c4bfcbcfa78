"""A text inside a file of each format."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from ..errors import CheckpointError, RequirementError, first_line

NOTE = "localvit_det"  # its key
SUFFIXES = (".onnx", ".xml", ".pt2", ".pt")


def is_exported(path: str | os.PathLike) -> bool:
    """Whether a file is a program rather than a checkpoint; .pt is the ending of both."""
    path = Path(path)
    if path.suffix != ".pt":
        return path.suffix in SUFFIXES
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_note(path: Path) -> str:
    """The text in a file, empty where it has none.

    Raises:
        CheckpointError: The file is missing or damaged.
        RequirementError: The package that reads such files is not installed.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no file {path.absolute()}: correct the path.")
    try:
        if path.suffix == ".onnx":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
            return session.get_modelmeta().custom_metadata_map.get(NOTE, "")
        if path.suffix == ".xml":
            import openvino

            model = openvino.Core().read_model(os.fspath(path))
            return model.get_rt_info(NOTE).value if model.has_rt_info(NOTE) else ""
        with zipfile.ZipFile(path) as archive:
            name = next((one for one in archive.namelist() if one.endswith(f"extra/{NOTE}")), None)
            return archive.read(name).decode() if name else ""
    except ImportError as error:
        raise RequirementError(
            f"{path.name} needs the package {error.name} ({first_line(error)}): run `pip install {error.name}`."
        ) from error
    # Each runtime has errors of its own.
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read ({first_line(error)}): export it again.") from error
