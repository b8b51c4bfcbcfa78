"""Read checkpoints: the one place where this package and MMEngine do, with limits, and without running anything."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import MODELS
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from ..config_names import split_key
from ..download import download as fetch
from ..download import file_name
from ..errors import CheckpointError, first_line
from ..files import sha256
from ..requirements import require_package
from .layouts import choose_weights
from .safe_config import metainfo_in
from .safe_pickle import MapLocation, TooLarge, check_total, is_archive, load_pickle

METADATA = "localvit_det"  # what a detector's safetensors say about themselves: as `meta` of a .pth, in JSON
_MAX_HEADER = 32 << 20  # bytes of JSON before the tensors of safetensors: 200,000 names
_SMALLEST = 1 << 17  # what a tensor counts at least, with its module: thousands of small ones take seconds
_ROWS = (torch.ops.aten.arange, torch.ops.aten.linspace, torch.ops.aten.logspace)  # as many as their largest argument
_TIMES_BUILT, _BUILT_SLACK = 8, 256 << 20  # weights may be kept in half precision, and only a backbone's


def load_weights_only(path: str | os.PathLike, map_location: MapLocation = "cpu", mmap: bool = False) -> dict:
    """Read a checkpoint (.pth, .pt, .safetensors) from a local path or an https address.

    `FILE#model_ema` is the same without other weights than those under `model_ema`, which stand under `state_dict`.

    Only tensors, plain Python values and what MMEngine's own checkpoints hold are read, whatever the
    environment variables or `torch.serialization.add_safe_globals` of others say.

    Args:
        map_location: As in `torch.load`.
        mmap: Leave the tensors on the disk until they are used, as far as the format allows it.

    Raises:
        CheckpointError: no such file, no checkpoint, or a pickle that would run code.
        RequirementError: a .safetensors file without the package that reads it.
    """
    name, key = split_key(path)
    file = download(name) if "://" in name else Path(name).expanduser()
    check_is_checkpoint(file)
    if file.suffix == ".safetensors":
        checkpoint = _load_safetensors(file, map_location)
    else:
        checkpoint = load_pickle(file, map_location, mmap)
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"{file} holds a {type(checkpoint).__name__} instead of a dictionary of weights: save "
            "model.state_dict() instead."
        )
    return choose_weights(checkpoint, key, name) if key else checkpoint


def saved_classes(path: str | os.PathLike) -> tuple[str, ...] | None:
    """Return what `classes_in` finds in a file."""
    return classes_in(load_weights_only(path, mmap=True))


def classes_in(checkpoint: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the names of the classes that a training's checkpoint is of; None where it does not say."""
    return metainfo_in(checkpoint).get("classes")


def download(address: str) -> Path:
    """Return the local copy of a checkpoint at an https address, below torch.hub's cache.

    A name like resnet50-0676ba61.pth holds the start of the file's SHA-256, which is then checked.

    Raises:
        CheckpointError: not https, not found, no checkpoint, or not the file that its name says.
    """
    name = file_name(address, "")
    if not name and address.startswith("https:"):
        raise CheckpointError(f"{address} names no file: give the full address of a checkpoint.")
    folder, named = Path(torch.hub.get_dir(), "checkpoints"), re.search(r"-([a-f0-9]{8,64})\.", name)
    digest = named[1] if named else ""
    plain = folder / name  # torch.hub's place for every address that ends so: good where the content is proved
    if digest and plain.is_file() and sha256(plain).startswith(digest):
        return plain
    file = fetch(address, folder, digest=digest, error=CheckpointError)
    try:
        check_is_checkpoint(file)
    except CheckpointError:
        file.unlink()  # or it would be taken from the cache next time
        raise
    return file


def check_is_checkpoint(file: Path) -> None:
    """Check by a file's first bytes and its table of contents that it is none of those often taken for a checkpoint.

    Raises:
        CheckpointError: There is no file, or it is something else.
    """
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise CheckpointError(f"The checkpoint {file} {what}: {_how_to_join(file) or 'give the path of a .pth file'}.")
    if (part := re.search(r"-\d+-of-0*(\d+)\.\w+$", file.name)) and int(part[1]) > 1:
        raise CheckpointError(
            f"{file} is one of {part[1]} parts of a checkpoint: save the model as one file, in Hugging Face's "
            "libraries with save_pretrained(..., max_shard_size='100GB')."
        )
    try:
        with file.open("rb") as stream:
            head = stream.read(4)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}): check its permissions.") from error
    if not head:
        raise CheckpointError(f"{file} is empty: save or download the checkpoint again.")
    if file.suffix != ".safetensors" and not head.startswith((b"PK\x03\x04", b"\x80")):  # an archive, or a pickle
        raise CheckpointError(f"{file} does not begin like a checkpoint: give the file with the weights themselves.")
    if is_archive(file):
        _check_archive(file)


def _check_archive(file: Path) -> None:
    try:
        if not zipfile.is_zipfile(file):
            raise CheckpointError(f"{file} is cut off (its end is missing): save or download it again.")
        with zipfile.ZipFile(file) as archive:
            check_total(sum(one.file_size for one in archive.infolist()), file.stat().st_size, "unpacks to")
            members = {Path(member).name for member in archive.namelist()}
    except TooLarge as error:
        raise error.of(file) from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise CheckpointError(f"{file} is damaged ({first_line(error)}): save or download it again.") from error
    if "constants.pkl" in members:
        raise CheckpointError(f"{file} is a TorchScript program, not a checkpoint: save its state_dict() instead.")
    if "data.pkl" not in members:
        raise CheckpointError(f"{file} is a zip archive without weights: unpack it and give the .pth file.")


def _how_to_join(folder: Path) -> str:
    """Return what makes one file of a checkpoint in many; empty for other folders."""
    if any(folder.glob("*.distcp")):  # FSDP
        return (
            "it is a sharded one of torch.distributed, so write it as one file with `python -m "
            "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE`"
        )
    if (folder / "zero_to_fp32.py").is_file():
        return "it is a sharded one of DeepSpeed, so write it as one file with its own zero_to_fp32.py"
    return ""


def _load_safetensors(file: Path, map_location: MapLocation) -> dict:
    require_package("safetensors", str(file))
    import safetensors.torch

    if not isinstance(map_location, (str, torch.device)):
        map_location = "cpu"  # the caller's mapping is for files that remember their devices
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")  # of the header, which is read whole
        if length > min(_MAX_HEADER, file.stat().st_size):
            raise TooLarge(f"announces a header of {length:,} bytes")
        weights = safetensors.torch.load_file(file, device=str(map_location))
        with safetensors.safe_open(file, "pt") as opened:
            meta = (opened.metadata() or {}).get(METADATA)
        return {"state_dict": weights, "meta": dict(json.loads(meta))} if meta else weights
    except TooLarge as error:
        raise error.of(file) from error
    # What is made to break it raises more than its own errors.
    except Exception as error:
        raise CheckpointError(
            f"{file} cannot be read as safetensors ({first_line(error)}): save or download it again."
        ) from error


class BuildLimit(TorchDispatchMode):
    """Raises TooLarge where a model that is built has much larger tensors than its file of `size` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.left = _TIMES_BUILT * size + _BUILT_SLACK

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Count what factories such as `torch.empty` and `torch.arange` are asked for."""
        shape: Sequence[Any] = ()
        if args and isinstance(args[0], (list, tuple)) and all(isinstance(side, int) for side in args[0]):
            shape = args[0] or (1,)
        elif func.overloadpacket in _ROWS:
            shape = [max(int(abs(one)) for one in args if isinstance(one, (int, float)) and math.isfinite(one))]
        if shape:
            self.left -= max(4 * math.prod(shape), _SMALLEST)
            if self.left < 0:
                raise TooLarge("describes a model that is many times larger than its weights")
        return func(*args, **(kwargs or {}))


def check_build_size(config: Mapping[str, Any], file: Path) -> None:
    """Raise CheckpointError where a config's model is much larger than the weights it came with; no memory is taken.

    One that cannot be built is not looked at: what builds it says why.
    """
    for device in ("meta", "cpu"):  # some parts ask a tensor for its value while they are built
        try:
            with (
                BuildLimit(file.stat().st_size),
                torch.device(device),
                torch.random.fork_rng(devices=[]),
                MODELS.switch_scope_and_registry(config.get("default_scope") or "mmdet") as registry,
            ):
                registry.build(copy.deepcopy(config["model"]))
            return
        except TooLarge as error:
            raise CheckpointError(
                f"The config in {file} is refused: it describes a model that is many times larger than its weights; "
                "give a config file of your own instead of it."
            ) from error
        # Another package's model may raise anything.
        except Exception:
            continue
