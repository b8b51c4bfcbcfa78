"""Where checkpoints come from: downloads, and the files that are often taken for a checkpoint."""

import hashlib
import re
import sys
import zipfile
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

import torch

from ..errors import CheckpointError
from .requirements import first_line


def download(address: str) -> Path:
    """The local copy of a checkpoint at an https address, in torch.hub's cache.

    A name like resnet50-0676ba61.pth holds the start of the file's SHA-256, which is then checked.

    Raises:
        CheckpointError: not https, not found, no checkpoint, or not the file that its name says.
    """
    parts = urlparse(address)
    if parts.scheme != "https":
        raise CheckpointError(
            f"{address} is not loaded, because checkpoints come from https addresses or local files only: "
            "download it and give the path of the file."
        )
    name = Path(parts.path).name
    if not name:
        raise CheckpointError(f"{address} names no file: give the full address of a checkpoint.")
    digest = re.search(r"-([a-f0-9]{8,64})\.", name)
    file = Path(torch.hub.get_dir(), "checkpoints", name)
    if file.exists():
        if digest and not sha256(file).startswith(digest[1]):
            raise CheckpointError(
                f"{file} is not what its name says (its SHA-256 does not begin with {digest[1]}): delete it "
                "and start again."
            )
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(
            address, str(file), hash_prefix=digest and digest[1], progress=sys.stderr.isatty()
        )
    except (OSError, HTTPException, RuntimeError) as error:
        raise CheckpointError(
            f"{address} could not be downloaded ({first_line(error)}): check the address and the network, "
            "or download it by hand and give the path of the file."
        ) from error
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
        raise CheckpointError(f"The checkpoint {file} {what}: give the path of a .pth file.")
    try:
        with file.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}): check its permissions.") from error
    if not head:
        raise CheckpointError(f"{file} is empty: save or download the checkpoint again.")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{file} is a Git LFS pointer, not the checkpoint: run `git lfs pull` beside it.")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            f"{file} is a web page, not a checkpoint: download the file itself instead of the page about it."
        )
    if not head.startswith(b"PK\x03\x04"):
        return
    if not zipfile.is_zipfile(file):
        raise CheckpointError(f"{file} is cut off (its end is missing): save or download it again.")
    with zipfile.ZipFile(file) as archive:
        members = {Path(member).name for member in archive.namelist()}
    if "constants.pkl" in members:
        raise CheckpointError(f"{file} is a TorchScript program, not a checkpoint: save its state_dict() instead.")
    if "data.pkl" not in members:
        raise CheckpointError(f"{file} is a zip archive without weights: unpack it and give the .pth file.")


def sha256(file: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    with file.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
