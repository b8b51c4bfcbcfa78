"""Addresses: what is opened, what is refused, and where copies lie."""

import contextlib
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from localvit_det.download import download, file_name
from localvit_det.errors import CheckpointError, DataError


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        redirects = {
            "/ftp": "ftp://example.org/a.jpg",
            "/file": "file:///etc/hostname",
            "/plain": "http://example.org/a.jpg",
            "/here": "/whole.jpg",
        }
        name = self.path.partition("?")[0]
        if name in redirects:
            self.send_response(302)
            self.send_header("Location", redirects[name])
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if name == "/page.html" else "image/jpeg")
        if name != "/endless":
            self.send_header("Content-Length", "9000000000" if name == "/huge" else "20" if name == "/cut" else "10")
        self.end_headers()
        with contextlib.suppress(OSError):  # the other side has hung up
            for _ in range(100 if name in ("/slow", "/endless") else 1):
                self.wfile.write(b"0" if name == "/slow" else b"0123456789")
                time.sleep(0.05 if name == "/slow" else 0)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def root():
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("/ftp", "ftp://example.org/a.jpg is not opened"),
        ("/file", "not allowed|is not opened"),
        ("/plain", "http://example.org/a.jpg is not opened"),
        ("/page.html", "is a web page"),
        ("/huge", "has 9,000,000,000 bytes, more than 500"),
        ("/endless", "has more than 500 bytes"),
        ("/slow", r"took longer than 0 s"),
        ("/cut", "was cut off after 10 of 20 bytes"),
    ],
)
def test_refused(root, tmp_path, name, sentence):
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=sentence):
        download(root + name, tmp_path, limit_bytes=500, limit_seconds=0.3, error=CheckpointError)
    assert time.monotonic() - start < 4  # what comes slowly would take 5
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_addresses_that_are_not_opened(tmp_path):
    for address in ("http://example.org/a.jpg", "ftp://example.org/a", "file:///etc/passwd", "https+x://a", "no"):
        with pytest.raises(DataError, match="give https addresses or local files only"):
            download(address, tmp_path)
    with pytest.raises(DataError, match="is no address"):
        download("https://[broken/a.jpg", tmp_path)


def test_copies_lie_below_the_folder(root, tmp_path):
    """Whatever an address says; and two addresses never share a copy."""
    names = ("/%2Ftmp%2Fabsolute.jpg", "/..%2F..%2Fescaped.jpg", "/a.jpg", "/a.jpg?raw=1", "/here", "/C:%5Ca.jpg", "/")
    paths = {download(root + name, tmp_path) for name in names}
    assert len(paths) == len(names)
    assert all(path.resolve().is_relative_to(tmp_path.resolve()) and path.read_bytes() for path in paths)
    path = download(root + "/a.jpg", tmp_path)
    path.write_bytes(b"kept")
    assert download(root + "/a.jpg", tmp_path).read_bytes() == b"kept"
    with pytest.raises(DataError, match="is not what its name says"):
        download(root + "/a.jpg", tmp_path, digest="00")


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://a.org/%2Ftmp%2Fx.jpg", "x.jpg"),
        ("https://a.org/..%2F..%2Fx.jpg?b=/c.png#d", "x.jpg"),
        ("https://a.org/..%5C..%5Cx.jpg", "x.jpg"),
        ("https://a.org/%2E%2E", "download"),
        ("https://a.org", "download"),
        ("https://a.org/a%00b%0Ac.jpg", "a_b_c.jpg"),
        ("https://a.org/CON.jpg", "_CON.jpg"),
    ],
)
def test_file_name(address, name):
    assert file_name(address) == name
