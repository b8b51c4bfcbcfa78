"""Images and videos at https addresses."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import Request, urlopen

from ..errors import DataError, first_line

_LIMIT = 2 << 30  # bytes
_TIMEOUT = 30.0  # seconds without an answer


def fetch(address: str, to_file: bool = False) -> bytes | str:
    """What lies at an https address (http only on this machine itself).

    Args:
        to_file: Put it into a temporary file, which goes when the process ends.

    Returns:
        The content, or the path of the file.

    Raises:
        DataError: Not https, not found, too large, or a web page.
    """
    parts = urlparse(address)
    if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1"):
        raise DataError(f"{address} is not read, because it is not encrypted: give an https address or a file.")
    try:
        with urlopen(Request(address, headers={"User-Agent": "localvit_det"}), timeout=_TIMEOUT) as answer:
            if answer.headers.get_content_type() == "text/html":
                raise DataError(f"{address} is a web page: give the address of the image or video itself.")
            content = answer.read(_LIMIT + 1)
    except (OSError, HTTPException, ValueError) as error:
        raise DataError(
            f"{address} could not be downloaded ({first_line(error)}): check the address and the network, or download "
            "it by hand and give the file."
        ) from error
    if len(content) > _LIMIT:
        raise DataError(f"{address} has more than {_LIMIT:,} bytes: download it by hand and give the file.")
    if not to_file:
        return content
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = Path(folder, f"video{Path(parts.path).suffix}")
    file.write_bytes(content)
    return os.fspath(file)
