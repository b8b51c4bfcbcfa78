"""Checkpoints as files and by address: downloaded once, checked, read; what is none is named."""

import hashlib
import sys
import zipfile
from email.message import Message
from io import BytesIO

import pytest
import torch
from checkpoint_cases import Runs, refusal, saved
from mmengine.runner import CheckpointLoader, load_checkpoint
from torch import nn

from localvit_det.checkpoint.read import BuildLimit, load_weights_only
from localvit_det.checkpoint.safe_pickle import TooLarge
from localvit_det.errors import RequirementError

RAW = {"a.weight": torch.zeros(2)}
NO_BEGINNING = "does not begin like a checkpoint"
NOT_CHECKPOINTS = [
    (b"", "is empty"),
    (b"\n<!DOCTYPE html><html></html>", NO_BEGINNING),
    (b"\x80\x02garbage", "cannot be read as a checkpoint"),
    (bytes(range(256)), NO_BEGINNING),
]


@pytest.mark.parametrize(("content", "what"), NOT_CHECKPOINTS)
def test_file_that_is_no_checkpoint(tmp_path, content, what):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    sentence = refusal(load_weights_only, path)
    assert f"{path} {what}" in sentence
    assert "weights_only" not in sentence  # torch's advice to load unsafely is not ours


def test_missing_file_and_folder(tmp_path):
    assert "does not exist" in refusal(load_checkpoint, nn.Linear(1, 1), str(tmp_path / "absent.pth"))
    assert "is a folder" in refusal(load_weights_only, tmp_path)
    assert "does not exist" in refusal(load_weights_only, tmp_path / "absent.pth#model")


def test_other_archives(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-500])
    assert "is cut off" in refusal(load_weights_only, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "")
    assert "zip archive without weights" in refusal(load_weights_only, path)
    torch.jit.script(nn.ReLU()).save(path)
    assert "TorchScript" in refusal(load_weights_only, path)


def test_something_else_than_a_dictionary(tmp_path):
    assert "holds a Tensor" in refusal(load_weights_only, saved(tmp_path / "tensor.pth", torch.zeros(2)))
    assert "holds a list" in refusal(load_weights_only, saved(tmp_path / "list.pth", [RAW]))
    assert "torch.nn.modules.linear.Linear" in refusal(
        load_weights_only, saved(tmp_path / "module.pth", nn.Linear(1, 1))
    )


def test_safetensors(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "safetensors", None)
        path.write_bytes(bytes(8))
        with pytest.raises(RequirementError, match="pip install safetensors"):
            load_weights_only(path)
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({"weight": torch.ones(2)}, path)
    assert load_weights_only(path)["weight"].tolist() == [1, 1]
    torch.save({"weight": torch.ones(2)}, path)
    assert "safetensors" in refusal(load_weights_only, path)


def test_devices(tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "model.pth")
    assert load_weights_only(tmp_path / "model.pth", "meta")["weight"].device.type == "meta"
    assert CheckpointLoader.load_checkpoint(str(tmp_path / "model.pth"))["weight"].device.type == "cpu"


def test_a_file_whose_name_has_the_sign(tmp_path):
    torch.save(RAW, tmp_path / "run#3.pth")
    assert load_weights_only(tmp_path / "run#3.pth").keys() == RAW.keys()


def test_shards_are_named(tmp_path):
    for name, words in (("fsdp/__0_0.distcp", "dcp_to_torch"), ("zero/zero_to_fp32.py", "own zero_to_fp32.py")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
        assert words in refusal(load_weights_only, (tmp_path / name).parent)
    torch.save(RAW, tmp_path / "model-00001-of-00003.bin")
    assert "one of 3 parts" in refusal(load_weights_only, tmp_path / "model-00001-of-00003.bin")
    torch.save(RAW, tmp_path / "model-00001-of-00001.bin")
    load_weights_only(tmp_path / "model-00001-of-00001.bin")
    sharded = pytest.importorskip("torch.distributed._shard.sharded_tensor")
    assert "one process's part of a sharded model" in refusal(
        load_weights_only, saved(tmp_path / "rank_0.pth", {"a.weight": Runs(sharded.ShardedTensor)})
    )


def test_rows_of_numbers_count_before_they_are_made():
    for make in (lambda: torch.arange(10**12), lambda: torch.linspace(0, 1, 10**12), lambda: torch.empty(10**6, 10**6)):
        with BuildLimit(1000), pytest.raises(TooLarge):
            make()
    with BuildLimit(1000):
        assert torch.linspace(0, 1, 10**6)[-1] == 1
        assert torch.full((), 10.0**12) == 10.0**12


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
    if address.startswith("http:"):
        assert "https addresses or local files only" in refusal(CheckpointLoader.load_checkpoint, address)
    assert "https addresses or local files only" in refusal(load_weights_only, address)
    assert not remote[1]


def test_failed_downloads(tmp_path, remote):
    pages, _ = remote
    assert "could not be downloaded (HTTP Error 404" in refusal(load_weights_only, "https://example.com/x.pth")
    pages["https://example.com/page.pth"] = b"<html></html>"
    assert NO_BEGINNING in refusal(load_weights_only, "https://example.com/page.pth")
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
