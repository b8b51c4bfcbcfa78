"""Checkpoints by address: downloaded once, checked, and read as safely as files."""

import hashlib
from email.message import Message
from io import BytesIO

import pytest
import torch
from checkpoint_cases import refusal
from mmengine.runner import CheckpointLoader

from localvit_det.checkpoint import loading
from localvit_det.checkpoint.read import load_weights_only


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A server: the bytes at each address, and the addresses that were asked for."""
    pages, asked = {}, []

    class Opener:
        def open(self, request, timeout):
            asked.append(request.full_url)
            if request.full_url not in pages:
                raise OSError("HTTP Error 404: Not Found")
            answer = BytesIO(pages[request.full_url])
            answer.headers, answer.length = Message(), len(answer.getvalue())
            return answer

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("localvit_det.download._opener", lambda _error: Opener())
    return pages, asked


def weights(tmp_path) -> bytes:
    torch.save({"weight": torch.ones(2)}, tmp_path / "weights.pth")
    return (tmp_path / "weights.pth").read_bytes()


def test_https_is_downloaded_once(tmp_path, remote):
    pages, asked = remote
    pages["https://example.com/a/net.pth?raw=1"] = weights(tmp_path)
    for load in (load_weights_only, CheckpointLoader.load_checkpoint, load_weights_only):
        assert load("https://example.com/a/net.pth?raw=1")["weight"].tolist() == [1, 1]
    assert len(asked) == 1


@pytest.mark.parametrize("address", ["http://example.com/net.pth", "s3://bucket/net.pth", "pavi://net.pth"])
def test_only_https(remote, address):
    assert "https addresses or local files only" in refusal(CheckpointLoader.load_checkpoint, address)
    assert "https addresses or local files only" in refusal(load_weights_only, address)
    assert not remote[1]


def test_failed_downloads(tmp_path, remote):
    pages, _ = remote
    assert "could not be downloaded (HTTP Error 404" in refusal(load_weights_only, "https://example.com/x.pth")
    pages["https://example.com/page.pth"] = b"<html></html>"
    assert "is a text, not a checkpoint (it begins with '<html></html>')" in refusal(
        load_weights_only, "https://example.com/page.pth"
    )
    assert not list((tmp_path / "cache").rglob("page.pth"))
    assert "names no file" in refusal(load_weights_only, "https://example.com/")


def test_hash_in_the_name_is_checked(tmp_path, remote):
    pages, asked = remote
    digest = hashlib.sha256(weights(tmp_path)).hexdigest()[:8]
    for name, good in ((f"net-{digest}.pth", True), ("net-01234567.pth", False)):
        address = f"https://example.com/{name}"
        pages[address] = weights(tmp_path)
        if good:
            load_weights_only(address)
        else:
            assert "SHA-256 does not begin with 01234567" in refusal(load_weights_only, address)
    (kept,) = (tmp_path / "cache").rglob("net-*.pth")
    kept.write_bytes(b"other")
    assert "is not what its name says" in refusal(load_weights_only, f"https://example.com/net-{digest}.pth")
    # What torch.hub has downloaded is taken, since its content is what the address says.
    kept.rename(tmp_path / "cache/hub/checkpoints" / kept.name).write_bytes(weights(tmp_path))
    load_weights_only(f"https://example.com/net-{digest}.pth")
    assert len(asked) == 2


def test_two_hosts_with_one_name(tmp_path, remote):
    """The second gets its own file: the cache is keyed by the whole address."""
    pages, _ = remote
    for value, host in enumerate(("one.org", "two.org")):
        torch.save({"weight": torch.full((2,), float(value))}, tmp_path / "other.pth")
        pages[f"https://{host}/net.pth"] = (tmp_path / "other.pth").read_bytes()
    for value, host in enumerate(("one.org", "two.org")):
        assert load_weights_only(f"https://{host}/net.pth")["weight"].tolist() == [value, value]


def test_aliases(tmp_path, remote, monkeypatch):
    pages, _ = remote
    address = f"https://download.pytorch.org/models/alexnet-{hashlib.sha256(weights(tmp_path)).hexdigest()[:8]}.pth"
    pages[address] = weights(tmp_path)
    monkeypatch.setitem(loading._ALIASES, "torchvision", lambda: {"alexnet": address})
    # Its content is not AlexNet: what matters is the address and the one loader behind it.
    assert "weight" in CheckpointLoader.load_checkpoint("torchvision://alexnet")
    assert "did you mean 'torchvision://alexnet'" in refusal(CheckpointLoader.load_checkpoint, "torchvision://alexnett")
