"""The one place where `localvit_det` and MMEngine read a checkpoint; nothing in a file is ever run."""

import os
import pickle
import pickletools
import re
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from ..download import download as fetch
from ..download import file_name
from ..errors import CheckpointError, RequirementError, first_line, printable
from ..files import sha256
from .allowed import metainfo_of
from .layouts import choose_weights
from .limits import TooLarge, check_archive, check_pickle, check_safetensors, check_tensors
from .records import ALLOWED_GLOBALS, restore

MapLocation = str | torch.device | dict[str, str] | Callable[..., Any]

# The allow-list of torch is global, and so is our exchange of it.
_ALLOW_LIST_LOCK = threading.Lock()


def load_weights_only(path: str | os.PathLike, map_location: MapLocation = "cpu", mmap: bool = False) -> dict:
    """Reads a checkpoint (.pth, .pt, .safetensors) from a local path or an https address.

    `FILE#model_ema` is the same without other weights than those under `model_ema`, which stand under `state_dict`.

    Only tensors, plain Python values and what MMEngine's own checkpoints hold are read, whatever the
    environment variables or `torch.serialization.add_safe_globals` of others say.

    Args:
        path: The file or its address.
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
        checkpoint = _load_pickle(file, map_location, mmap and _is_archive(file))
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"{file} holds a {type(checkpoint).__name__} instead of a dictionary of weights: save "
            "model.state_dict() instead."
        )
    return choose_weights(checkpoint, key, name) if key else checkpoint


def split_key(path: str | os.PathLike) -> tuple[str, str]:
    """The path or address of a checkpoint, and the key of the weights that are wanted of it ('' for the usual ones)."""
    name = os.fspath(path)
    file, _, key = name.rpartition("#")
    return (file, key) if file and not Path(name).expanduser().exists() else (name, "")


def saved_classes(path: str | os.PathLike) -> tuple[str, ...] | None:
    """The names of the classes that a training's checkpoint is of; None where it does not say."""
    return classes_in(load_weights_only(path, mmap=True))


def classes_in(checkpoint: Mapping[str, Any]) -> tuple[str, ...] | None:
    """As `saved_classes`, of what a file holds."""
    meta = checkpoint.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    # CLASSES are in files of MMDetection 2.
    found = metainfo_of(meta.get("dataset_meta")) or metainfo_of({"classes": meta.get("CLASSES")})
    return found.get("classes")


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
    """Tells the files that are often taken for a checkpoint, by their first bytes.

    Raises:
        CheckpointError: there is no file, or it is something else.
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
            head = stream.read(512)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}): check its permissions.") from error
    if not head:
        raise CheckpointError(f"{file} is empty: save or download the checkpoint again.")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{file} is a Git LFS pointer, not the checkpoint: run `git lfs pull` beside it.")
    if head.lstrip().startswith(b"{"):  # of a checkpoint in parts, or a model's settings
        raise CheckpointError(f"{file} is JSON, not a checkpoint: give the file with the weights themselves.")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            f"{file} is a web page, not a checkpoint: download the file itself instead of the page about it."
        )
    if not _is_archive(file):
        return
    try:
        if not zipfile.is_zipfile(file):
            raise CheckpointError(f"{file} is cut off (its end is missing): save or download it again.")
        with zipfile.ZipFile(file) as archive:
            check_archive(archive, file.stat().st_size)
            members = {Path(member).name for member in archive.namelist()}
    except TooLarge as error:
        raise _too_large(file, error) from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise CheckpointError(
            f"{file} is damaged ({first_line(error)}): save or download the checkpoint again."
        ) from error
    if "constants.pkl" in members:
        raise CheckpointError(f"{file} is a TorchScript program, not a checkpoint: save its state_dict() instead.")
    if "data.pkl" not in members:
        raise CheckpointError(f"{file} is a zip archive without weights: unpack it and give the .pth file.")


def _is_archive(file: Path) -> bool:
    """Whether torch takes a file for an archive: by its beginning alone, whatever the end of a pickle looks like."""
    with file.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def _too_large(file: Path, error: TooLarge) -> CheckpointError:
    return CheckpointError(f"{file} is refused, because it {error}, as no checkpoint does: save or download it again.")


def _how_to_join(folder: Path) -> str:
    """What makes one file of a checkpoint in many; empty for other folders."""
    if any(folder.glob("*.distcp")):  # FSDP
        return (
            "it is a sharded one of torch.distributed, so write it as one file with `python -m "
            "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE`"
        )
    if (folder / "zero_to_fp32.py").is_file():
        return "it is a sharded one of DeepSpeed, so write it as one file with its own zero_to_fp32.py"
    return ""


def _load_pickle(file: Path, map_location: MapLocation, mmap: bool) -> Any:
    try:
        with _pickle_stream(file) as stream:
            check_pickle(stream)
        with _only_allowed_globals():
            # An explicit weights_only wins over TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD.
            content = restore(torch.load(file, map_location=map_location, weights_only=True, mmap=mmap))
        check_tensors(content, file.stat().st_size)
        return content
    except TooLarge as error:
        raise _too_large(file, error) from error
    except Exception as error:  # a damaged or hostile pickle can raise anything
        if re.search(r"\b(DTensor|ShardedTensor)", str(error)):
            raise CheckpointError(
                f"{file} is one process's part of a sharded model: save its whole state dict, in "
                "torch.distributed.checkpoint with StateDictOptions(full_state_dict=True)."
            ) from error
        refused = _refused_global(file, error)
        if refused:
            raise CheckpointError(
                f"{file} is refused, because it could run code when loaded (it names {printable(refused)[:200]}): use "
                "a checkpoint that holds only weights."
            ) from error
        raise CheckpointError(
            f"{file} cannot be read as a checkpoint ({_reason(error)}): save or download it again."
        ) from error


@contextmanager
def _only_allowed_globals() -> Iterator[None]:
    """Exactly our allow-list: another package may have put the real `getattr` on the global one."""
    with _ALLOW_LIST_LOCK:
        others = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([*ALLOWED_GLOBALS])
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(others)


def _refused_global(file: Path, error: Exception) -> str | None:
    """The global that made torch refuse a file, None where it failed for another reason."""
    if not isinstance(error, pickle.UnpicklingError):
        return None
    named = re.search(r"GLOBAL (\S+)", str(error))
    if named:
        return named[1]
    # Protocols above 2 fail at an opcode, before torch sees a name.
    harmless = {"_codecs.encode", *(name for _stand_in, name in ALLOWED_GLOBALS)}
    names = [name for name in _named_globals(file) if not name.startswith(("torch.", "collections."))]
    return ", ".join(name for name in dict.fromkeys(names) if name not in harmless) or None


def _reason(error: Exception) -> str:
    """What went wrong, without torch's advice to load unsafely."""
    message = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
    return first_line(message[1] if message else error)


def _named_globals(file: Path) -> Iterator[str]:
    """The globals of a pickle in any protocol, found by parsing alone."""
    texts: list[str] = []
    try:
        with _pickle_stream(file) as stream:
            while True:  # the format before torch 1.6 is a row of pickles
                for opcode, argument, _position in pickletools.genops(stream):
                    if opcode.name == "GLOBAL":
                        yield str(argument).replace("__builtin__", "builtins").replace(" ", ".")
                    elif opcode.name == "STACK_GLOBAL" and len(texts) > 1:
                        yield ".".join(texts[-2:])
                    elif isinstance(argument, str):
                        texts.append(argument)
    # The end, no pickle at all, a text of any announced length, or a damaged archive.
    except (ValueError, OverflowError, MemoryError, EOFError, OSError, zipfile.BadZipFile, zlib.error):
        return


def _pickle_stream(file: Path) -> IO[bytes]:
    if not _is_archive(file):
        return file.open("rb")
    archive = zipfile.ZipFile(file)
    return archive.open(next(name for name in archive.namelist() if Path(name).name == "data.pkl"))


def _load_safetensors(file: Path, map_location: MapLocation) -> dict:
    try:
        import safetensors.torch
    except ImportError as error:
        raise RequirementError(f"{file} needs the package safetensors: run `pip install safetensors`.") from error
    if not isinstance(map_location, (str, torch.device)):
        map_location = "cpu"  # the caller's mapping is for files that remember their devices
    try:
        check_safetensors(file)
        return safetensors.torch.load_file(file, device=str(map_location))
    except TooLarge as error:
        raise _too_large(file, error) from error
    # What is made to break it raises more than its own errors.
    except Exception as error:
        raise CheckpointError(
            f"{file} cannot be read as safetensors ({first_line(error)}): save or download it again."
        ) from error
