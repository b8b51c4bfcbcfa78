"""A text inside a file of each format."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from ..errors import CheckpointError, RequirementError, first_line
from .limits import check_openvino

NOTE = "localvit_det"  # its key
SUFFIXES = (".onnx", ".xml", ".pt2", ".pt")
_PROGRAMS = {".pt": "TorchScript", ".pt2": "torch.export"}  # whose files may hold any code, the others' only operators
_LONGEST = 4_000_000  # bytes of a note


def is_exported(path: str | os.PathLike) -> bool:
    """Whether a file is a program rather than a checkpoint; .pt is the ending of both."""
    path = Path(path)
    if path.suffix != ".pt":
        return path.suffix in SUFFIXES
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    # No archive, or a damaged one: who reads it as a checkpoint says what is wrong.
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
        return False


def check_trusted(path: str | os.PathLike) -> None:
    """Check that a file without trust is of a format that cannot do more than compute.

    Raises:
        CheckpointError: It is a program.
    """
    if kind := _PROGRAMS.get(Path(path).suffix):
        raise CheckpointError(
            f"{path} is a program of {kind}, which may do anything when it is opened: pass --trust-file if you know "
            "who made it, or take an ONNX file or a checkpoint."
        )


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

            check_openvino(path)
            model = openvino.Core().read_model(os.fspath(path))
            return model.get_rt_info(NOTE).value if model.has_rt_info(NOTE) else ""
        with zipfile.ZipFile(path) as archive:
            name = next((one for one in archive.namelist() if one.endswith(f"extra/{NOTE}")), None)
            if name and archive.getinfo(name).file_size > _LONGEST:
                raise CheckpointError(f"{path} has a note of more than {_LONGEST:,} bytes: export it again.")
            return archive.read(name).decode() if name else ""
    except CheckpointError:
        raise
    except ImportError as error:
        raise RequirementError(
            f"{path.name} needs the package {error.name} ({first_line(error)}): run `pip install {error.name}`."
        ) from error
    # Each runtime has errors of its own.
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read ({first_line(error)}): export it again.") from error
