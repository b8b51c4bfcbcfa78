"""Exported models: whether a file is one, whether it may be opened, and what it says about itself.

A file of each format carries a note, so that it is all that a user needs.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config_names import EXPORTED_SUFFIXES
from ..errors import CheckpointError, ConfigError, RequirementError, first_line
from .safe_pickle import TooLarge, check_total

NOTE = "localvit_det"  # the note's key
_PROGRAMS = {".pt": "TorchScript", ".pt2": "torch.export"}  # whose files may hold any code, the others' only operators
_LONGEST = 4_000_000  # bytes of a note


@dataclass(frozen=True)
class Info:
    """The note in an exported model's file."""

    classes: tuple[str, ...]  # in the order of the labels
    config: str  # of the detector, as text; its test pipeline says how an image is read and resized
    size: tuple[int, int] | None  # height and width of the images; None where any multiple of `divisor` is taken
    divisor: int  # of both sides of an image
    score: float  # objects never have lower scores
    mask_threshold: float = 0.5  # from which probability on a pixel belongs to a mask
    # What the model does with the bytes of an image by itself, for those who read the note.
    normalization: Mapping[str, Any] = field(default_factory=dict)
    int8: bool = False  # products are of integers
    outputs: tuple[str, ...] = ("boxes", "scores", "labels", "masks")  # in order; without masks the last may be absent
    align_corners: bool = False  # how logits of a segmentor are resized
    versions: Mapping[str, str] = field(default_factory=dict)  # of what wrote the file

    @property
    def is_segmentor(self) -> bool:
        """Whether the model finds the class of each pixel instead of objects."""
        return "logits" in self.outputs

    def input_of(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return an image (3, H, W), uint8, as the model takes it: padded, (1, 3, H', W'), and H and W, (2,).

        Raises ConfigError where it is too large.
        """
        height, width = image.shape[1:]
        wanted = self.size or tuple(-(-side // self.divisor) * self.divisor for side in (height, width))
        if height > wanted[0] or width > wanted[1]:
            raise ConfigError(
                f"The exported detector takes images up to {wanted[0]}×{wanted[1]}, and one has {height}×{width}: let "  # noqa: RUF001
                "the test pipeline resize them, or export without --size."
            )
        return F.pad(image, (0, wanted[1] - width, 0, wanted[0] - height))[None], torch.tensor([height, width])

    def to_text(self) -> str:
        """Return the note as JSON."""
        return json.dumps(asdict(self))


def is_exported(path: str | os.PathLike) -> bool:
    """Whether a file is an exported model rather than a checkpoint; .pt is the ending of both."""
    path = Path(path)
    if path.suffix != ".pt":
        return path.suffix in EXPORTED_SUFFIXES
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    # No archive, or a damaged one: who reads it as a checkpoint says what is wrong.
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
        return False


def check_trusted(path: str | os.PathLike) -> None:
    """Raise CheckpointError for a file without trust of a format that can do more than compute."""
    if kind := _PROGRAMS.get(Path(path).suffix):
        raise CheckpointError(
            f"{path} is a program of {kind}, which may do anything when it is opened: pass --trust-file if you know "
            "who made it, or take an ONNX file or a checkpoint."
        )


def read_info(path: str | os.PathLike) -> Info:
    """Read the note of a file; CheckpointError where it has none of a detector, RequirementError without its reader."""
    text = _read_note(Path(path))
    try:
        values = json.loads(text)
        values |= {
            "classes": tuple(map(str, values["classes"])),
            "size": values["size"] and tuple(map(int, values["size"])),
            "divisor": max(1, int(values["divisor"])),
            "score": float(values["score"]),
            "mask_threshold": float(values["mask_threshold"]),
            "outputs": tuple(map(str, values.get("outputs", Info.outputs))),
        }
        return Info(**values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is no exported detector of this package: export one by `localvit export MODEL --out FILE`."
        ) from error


def _read_note(path: Path) -> str:
    """Return the text in a file, empty where it has none."""
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

            _check_openvino(path)
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


def _check_openvino(file: Path) -> None:
    """Check what constants of an OpenVINO file take of the weights next to it, which many may share.

    Raises:
        TooLarge: They lie outside of the weights, or are much larger together.
        ValueError: A place or a shape is no number.
    """
    weights = file.with_suffix(".bin")
    if weights.exists() and not weights.is_file():  # reading a pipe may never end
        raise TooLarge(f"has {weights.name} for its weights, which is no file")
    size = weights.stat().st_size if weights.exists() else 0
    total = 0

    def note(name: str, values: dict[str, str]) -> None:
        nonlocal total
        if name != "data" or not {"offset", "size"} <= values.keys():
            return
        first, count = int(values["offset"]), int(values["size"])
        numbers = math.prod(int(side) for side in values.get("shape", "").split(",") if side.strip())
        if first < 0 or count < 0 or first + count > size or numbers > 8 * count:  # of one bit each
            raise TooLarge(
                f"has a constant of {numbers:,} numbers in {count:,} bytes from {first:,} on, where {weights.name} has "
                f"{size:,} bytes"
            )
        total += count

    parser = expat.ParserCreate()
    parser.StartElementHandler = note
    with file.open("rb") as stream:
        parser.ParseFile(stream)
    check_total(total, size, "holds constants of")
