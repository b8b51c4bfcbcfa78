"""The one function that opens an address; only https, within limits of size and time, into a file of its own."""

from __future__ import annotations

import hashlib
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib import request as web
from urllib.parse import unquote, urlsplit

# A stand-in where it is not installed; not in what torch declares to export.
from torch.hub import tqdm  # type: ignore[attr-defined]

from .errors import DataError, UserError, first_line
from .files import atomic_file, safe_name, sha256

_SILENCE = 30.0  # seconds without an answer
_BLOCK = 1 << 20
_T = TypeVar("_T")


def download(
    address: str,
    folder: str | os.PathLike,
    *,
    limit_bytes: int = 8 << 30,
    limit_seconds: float = 3600,
    digest: str = "",
    error: type[UserError] = DataError,
) -> Path:
    """Return the local copy of what lies at an https address; http is opened on this machine itself only.

    The copy lies at `folder/KEY/NAME`, where KEY is made of the whole address: two hosts never share one. A copy that
    is there already is taken without a request.

    Args:
        limit_bytes: Refuse more, before anything is read where the server announces it.
        limit_seconds: Of the whole download, however slowly the server answers.
        digest: What the file's SHA-256 begins with, in hexadecimal digits.
        error: The class of the errors.

    Raises:
        UserError: Not https, not found, redirected elsewhere, too large, too slow, cut off, a web page, or another
            file than `digest` says.
    """
    _check_scheme(address, error)
    key = hashlib.sha256(address.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    path = Path(folder, key, file_name(address))
    if path.is_file():
        if digest and not sha256(path).startswith(digest):
            raise error(f"{path} is not what its name says (its SHA-256 does not begin with {digest}): delete it.")
        return path
    advice = "download it by hand and give the file"
    end = time.monotonic() + limit_seconds
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        request = web.Request(address, headers={"User-Agent": "localvit_det"})
        answer = _until(end, lambda: _opener(error).open(request, timeout=_SILENCE))
        with answer, atomic_file(path) as file:
            found = _fill(file, answer, address, end, limit_bytes, error)
            if digest and not found.startswith(digest):
                raise error(f"{address} is not the expected file: its SHA-256 does not begin with {digest}.")
    except TimeoutError as late:
        raise error(f"{address} took longer than {limit_seconds:,.0f} s or fell silent: {advice}.") from late
    except (OSError, HTTPException, ValueError) as problem:
        raise error(
            f"{address} could not be downloaded ({first_line(problem)}): check address and network, or {advice}."
        ) from problem
    return path


def file_name(address: str, default: str = "download") -> str:
    """Return the name at the end of an address, as one that leads nowhere; `default` where there is none."""
    path = re.split(r"[?#]", address.partition("://")[2])[0].partition("/")[2]
    return safe_name(re.split(r"[/\\]", unquote(path))[-1], default)


def _fill(file: IO[bytes], answer: HTTPResponse, address: str, end: float, limit: int, error: type[UserError]) -> str:
    """Write an answer into a file that has no name yet, and return its SHA-256."""
    if answer.headers.get_content_type() == "text/html":
        raise error(f"{address} is a web page: give the address of the file itself.")
    announced = answer.length  # None where the server does not say it
    if (announced or 0) > limit:
        raise error(f"{address} has {announced:,} bytes, more than {limit:,}: download it by hand and give the file.")
    hashed, size = hashlib.sha256(), 0
    hidden = not sys.stderr.isatty() or (announced or 0) < 8 * _BLOCK
    with tqdm(total=announced, unit="B", unit_scale=True, disable=hidden) as bar:
        while block := _until(end, lambda: answer.read(_BLOCK)):
            size += len(block)
            if size > limit:
                raise error(f"{address} has more than {limit:,} bytes: download it by hand and give the file.")
            file.write(block)
            hashed.update(block)
            bar.update(len(block))
    if announced is not None and size != announced:
        raise error(f"{address} was cut off after {size:,} of {announced:,} bytes: try it again.")
    return hashed.hexdigest()


def _check_scheme(address: str, error: type[UserError]) -> None:
    try:
        parts = urlsplit(address)
        here = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
    except ValueError as problem:
        raise error(f"{address} is no address ({first_line(problem)}): correct it.") from problem
    if parts.scheme != "https" and not here:
        raise error(f"{address} is not opened, because it is not encrypted: give https addresses or local files only.")


def _opener(error: type[UserError]) -> web.OpenerDirector:
    """Return an opener of http and https alone: Python's own reads ftp and files, too."""

    class Redirects(web.HTTPRedirectHandler):
        def redirect_request(
            self, req: web.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
        ) -> web.Request | None:
            if not newurl.startswith("https://") and req.type == "https":
                raise error(f"{req.full_url} leads to {newurl}, which is not encrypted: give another address.")
            _check_scheme(newurl, error)
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    opener = web.OpenerDirector()
    general = (web.ProxyHandler, web.UnknownHandler, web.HTTPDefaultErrorHandler, web.HTTPErrorProcessor)
    for handler in (*general, web.HTTPHandler, web.HTTPSHandler, Redirects):
        opener.add_handler(handler())
    return opener


def _until(end: float, call: Callable[[], _T]) -> _T:
    """Return what `call` returns; TimeoutError, and `call` is left to itself, where it waits beyond the time `end`."""
    done: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((True, call()))
        except BaseException as problem:  # raised below, in the thread that asked
            done.put((False, problem))

    threading.Thread(target=run, daemon=True).start()
    try:
        there, value = done.get(timeout=max(0.0, end - time.monotonic()))
    except queue.Empty:
        raise TimeoutError from None
    if there:
        return value
    raise value
