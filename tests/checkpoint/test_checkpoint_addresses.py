"""Checkpoints by address: downloaded once, checked, and read as safely as files."""

import pytest
import torch

from localvit_det import compat

compat.apply()

from checkpoint_cases import refusal  # noqa: E402
from mmengine.runner import CheckpointLoader  # noqa: E402

from localvit_det.checkpoint.read import load_weights_only  # noqa: E402


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A server: the bytes at each address, and the addresses that were asked for."""
    pages, asked = {}, []

    def fetch(address, target, hash_prefix=None, progress=True):
        asked.append(address)
        if address not in pages:
            raise OSError("HTTP Error 404: Not Found")
        with open(target, "wb") as stream:
            stream.write(pages[address])

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
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
    assert "is a web page" in refusal(load_weights_only, "https://example.com/page.pth")
    assert not (tmp_path / "cache/hub/checkpoints/page.pth").exists()
    assert "names no file" in refusal(load_weights_only, "https://example.com/")


def test_hash_in_the_name_is_checked(tmp_path, remote, monkeypatch):
    pages, _ = remote
    address = "https://example.com/net-01234567.pth"
    pages[address] = weights(tmp_path)
    asked_for = []
    fetch = torch.hub.download_url_to_file
    monkeypatch.setattr(
        torch.hub,
        "download_url_to_file",
        lambda *a, hash_prefix, **k: asked_for.append(hash_prefix) or fetch(*a),
    )
    load_weights_only(address)  # the stand-in for the server checks nothing
    assert asked_for == ["01234567"]
    assert "SHA-256 does not begin with 01234567" in refusal(load_weights_only, address)


def test_aliases(tmp_path, remote):
    pages, _ = remote
    pages["https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"] = weights(tmp_path)
    # Its content is not AlexNet: what matters is the address and the one loader behind it.
    assert "weight" in CheckpointLoader.load_checkpoint("torchvision://alexnet")
    assert "did you mean 'torchvision://alexnet'" in refusal(CheckpointLoader.load_checkpoint, "torchvision://alexnett")
