"""Pickles run nothing, by every way that MMEngine has, and take no more time or memory than they hold."""

import argparse
import io
import json
import os
import pickle
import resource
import struct
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_cases import Runs, refusal, saved
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from torch import nn
from toy_training import NoisyImages, Plain, different, toy_runner

from localvit_det.checkpoint.read import load_weights_only
from localvit_det.checkpoint.safe_pickle import TooLarge, check_tuples, restore
from localvit_det.errors import CheckpointError


def write_torch(obj, path, **settings):
    torch.save(obj, path, **settings)


def write_plain(obj, path, pickle_protocol):
    path.write_bytes(pickle.dumps(obj, pickle_protocol))


WRITERS = {
    "zip": (write_torch, {}),
    "zip, protocol 4": (write_torch, {"pickle_protocol": 4}),
    "before torch 1.6": (write_torch, {"_use_new_zipfile_serialization": False}),
    "before torch 1.6, protocol 4": (
        write_torch,
        {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
    ),
    "pickle, protocol 2": (write_plain, {"pickle_protocol": 2}),
    "pickle, protocol 5": (write_plain, {"pickle_protocol": 5}),
}


@pytest.mark.parametrize("unsafe_flag", ["0", "1"])
@pytest.mark.parametrize("writer", WRITERS)
def test_malicious_pickle_is_refused_and_named(tmp_path, monkeypatch, writer, unsafe_flag):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", unsafe_flag)
    touched, path = tmp_path / "touched", tmp_path / "model.pth"
    write, settings = WRITERS[writer]
    write({"state_dict": {"weight": Runs(os.system, f"touch {touched}")}}, path, **settings)
    pretrained = BaseModule(init_cfg={"type": "Pretrained", "checkpoint": str(path)})
    loads = (
        lambda: load_checkpoint(nn.Linear(1, 1), str(path)),
        lambda: CheckpointLoader.load_checkpoint(str(path)),
        lambda: load_weights_only(path),
        pretrained.init_weights,
    )
    for load in loads:
        sentence = refusal(load)
        assert str(path) in sentence
        assert f"{os.system.__module__}.system" in sentence
    assert not touched.exists()


@pytest.mark.parametrize("function", [eval, exec, getattr, __import__, open])
def test_builtins_are_refused_whatever_others_allow(tmp_path, function):
    torch.save({"a": Runs(function, "1")}, tmp_path / "model.pth")
    torch.serialization.add_safe_globals([function])
    try:
        refusal(load_weights_only, tmp_path / "model.pth")
        assert function in torch.serialization.get_safe_globals()  # it is theirs, so it is put back
    finally:
        torch.serialization.clear_safe_globals()


@pytest.mark.parametrize(
    "arguments",
    [
        (HistoryBuffer, "__init__"),
        (HistoryBuffer, "__setstate__"),
        (HistoryBuffer, "__subclasses__"),
        (OrderedDict, "fromkeys"),
        (np.ndarray, "mean"),
        (np.ndarray, "tofile"),
    ],
)
def test_getattr_reaches_nothing(tmp_path, arguments):
    assert "builtins.getattr" in refusal(
        load_weights_only, saved(tmp_path / "model.pth", {"a": Runs(getattr, *arguments)})
    )


def test_a_looked_up_statistic_is_only_a_name(tmp_path):
    assert load_weights_only(saved(tmp_path / "model.pth", {"a": Runs(getattr, HistoryBuffer, "min")})) == {"a": "min"}


def test_an_empty_history_loads(tmp_path):
    assert load_weights_only(saved(tmp_path / "model.pth", {"a": HistoryBuffer()}))["a"].data[0].size == 0


def test_a_file_cannot_replace_statistics(tmp_path, monkeypatch):
    buffer = HistoryBuffer([1.0, 3.0], [1, 1])
    state = {**vars(buffer), "statistics_methods": {"mean": HistoryBuffer.max}, "mean": None}
    monkeypatch.setattr(HistoryBuffer, "__getstate__", lambda _self: state)
    loaded = load_weights_only(saved(tmp_path / "model.pth", {"a": buffer}))["a"]
    assert type(loaded) is HistoryBuffer
    assert loaded.statistics("mean") == loaded.mean() == 2.0


def test_numpy_flags_from_a_file_are_not_believed(tmp_path):
    """With NumPy's own dtype these make floats pass for pointers to objects."""
    hostile = Runs(np.dtype, "f8", False, True, state=(3, "<", None, None, None, -1, -1, 63))
    dtype = load_weights_only(saved(tmp_path / "model.pth", {"a": hostile}))["a"]
    assert dtype == np.float64
    assert not dtype.hasobject


@pytest.mark.parametrize("array", [np.array([{}, None]), np.zeros(2, "i4,f8"), np.zeros(1, "M8[s]")])
def test_arrays_of_anything_but_numbers_are_refused(tmp_path, array):
    assert "numpy.dtype[" in refusal(load_weights_only, saved(tmp_path / "model.pth", {"a": array}))


def test_numpy_values_come_back(tmp_path):
    holder = [np.float32(1.5)]
    holder.append(holder)
    content = {
        "array": np.arange(6, dtype=">i2").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "empty": np.zeros((0, 4), bool),
        "text": np.array(["a", "bc"]),
        "nested": ({"deep": [np.int64(3), (np.ones(1),)]},),
        "itself": holder,
        "tensor": torch.arange(3),
    }
    loaded = load_weights_only(saved(tmp_path / "model.pth", content))
    for name in ("array", "fortran", "empty", "text"):
        np.testing.assert_array_equal(loaded[name], content[name])
        assert loaded[name].dtype == content[name].dtype
        assert loaded[name].flags.owndata
    assert loaded["nested"] == content["nested"]
    assert loaded["itself"][1] is loaded["itself"]
    assert type(loaded["itself"][0]) is np.float32


@pytest.mark.parametrize("package", [b"numpy.core.", b"numpy._core."], ids=["NumPy 1", "NumPy 2"])
def test_numbers_of_every_numpy_are_read(tmp_path, package):
    path = tmp_path / "model.pth"
    torch.save({"array": np.arange(3), "number": np.float32(1.5)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"numpy._core.", b"numpy.core.").replace(b"numpy.core.", package))
    assert package in path.read_bytes()
    loaded = load_weights_only(path)
    assert loaded["array"].tolist() == [0, 1, 2]
    assert loaded["number"] == 1.5


def test_runner_checkpoint_loads_and_resumes(tmp_path):

    def run(name: str, **resume: object) -> Runner:
        parts = {"model": Plain(), "dataset": NoisyImages(noise=False), "custom_hooks": [{"type": "EMAHook"}]}
        runner = toy_runner(tmp_path / name, epochs=2, runner_class=Runner, **parts, **resume)
        runner.train()
        return runner

    whole = run("whole")

    path = tmp_path / "whole" / "epoch_1.pth"
    loaded = load_weights_only(path)
    trusted = torch.load(path, weights_only=False)  # our own file
    assert loaded.keys() == trusted.keys() >= {"ema_state_dict", "message_hub", "optimizer"}
    scalars = trusted["message_hub"]["log_scalars"]
    assert scalars
    for name, buffer in scalars.items():
        found = loaded["message_hub"]["log_scalars"][name]
        assert type(found) is HistoryBuffer
        np.testing.assert_array_equal(found.data, buffer.data)
        assert found.max_length == buffer.max_length
    assert loaded["message_hub"]["runtime_info"] == trusted["message_hub"]["runtime_info"]
    assert loaded["state_dict"]._metadata == trusted["state_dict"]._metadata

    resumed = run("resumed", resume=True, load_from=str(path))
    assert resumed.iter == whole.iter
    assert not different(resumed.model.state_dict(), whole.model.state_dict())
    # What was loaded can be saved and loaded again.
    load_weights_only(tmp_path / "resumed" / "epoch_2.pth")


def test_settings_of_a_training_beside_its_weights(tmp_path):
    """As timm saves them, and the official codes of Twins and PVT."""
    args = argparse.Namespace(lr=0.1, output=Path("/data/out"), nested=argparse.Namespace(names=("a", "b")))
    args.itself = args
    torch.save({"state_dict": {"a": torch.ones(1)}, "args": args}, tmp_path / "timm.pth")
    found = load_weights_only(tmp_path / "timm.pth")["args"]
    assert (found["lr"], found["output"], found["nested"]) == (0.1, "/data/out", {"names": ("a", "b")})
    assert found["itself"] is found
    assert "cannot be read" in refusal(
        load_weights_only, saved(tmp_path / "bad.pth", {"args": Runs(argparse.Namespace, state=["no", "mapping"])})
    )


def doubled(depth: int):
    value = ()
    for _ in range(depth):
        value = (value, value)
    return value


def nested(depth: int):
    value = ()
    for _ in range(depth):
        value = (value,)
    return value


def with_pickle(path, content: bytes, compressed: int = zipfile.ZIP_STORED):
    """A checkpoint with such a data.pkl."""
    torch.save({"state_dict": {"w": torch.zeros(1)}}, file := io.BytesIO())
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w", compressed) as new:
        for member in old.namelist():
            new.writestr(member, content if member.endswith("data.pkl") else old.read(member))
    return path


def as_key(depth: int) -> bytes:
    """A pickle of a dict with such a tuple as a key, which is never hashed here."""
    inner = pickle.dumps(doubled(depth), 2)[2:-1]
    return b"\x80\x02}" + inner + b"K\x01s."


def tensor_of(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.zeros(1).as_strided(shape, (0,) * len(shape))


def array_of_nothing() -> Runs:
    state = (1, (10**11,), np.dtype("S0"), False, b"")
    return Runs(np.zeros(0).__reduce__()[0], np.ndarray, (0,), b"b", state=state)


def with_an_archive_behind(path, content):
    """A pickle for torch, which looks at the beginning, an archive for zipfile, which looks at the end."""
    torch.save(content, old := io.BytesIO(), _use_new_zipfile_serialization=False)
    path.write_bytes(old.getvalue() + with_pickle(path, b"\x80\x02}.").read_bytes())
    return path


def of_several_disks(path):
    content = with_pickle(path, b"\x80\x02}.").read_bytes()
    path.write_bytes(content[:-22] + struct.pack("<4sLQL", b"PK\6\7", 0, 0, 2) + content[-22:])
    return path


def inflating(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a/data.pkl", "w") as member:
        for _ in range(100):
            member.write(bytes(1 << 20))
    return path


def safetensors(path, header: bytes, length: int | None = None):
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + bytes(8))
    return path


HEADER = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


# Nested lists are built by the pickle itself: pickle.dumps would not get so deep.
BOMBS = {
    "nested tuples": lambda path: saved(path, {"state_dict": {"w": torch.zeros(1)}, "meta": doubled(60)}),
    "tuples in the old format": lambda path: torch.save({"m": doubled(60)}, path, _use_new_zipfile_serialization=False),
    "tuples before an archive": lambda path: with_an_archive_behind(path, {"m": doubled(60)}),
    "archive of several disks": of_several_disks,
    "tuples as a key": lambda path: with_pickle(path, as_key(60)),
    "deep tuples": lambda path: with_pickle(path, b"\x80\x02)" + b"\x85" * 200_000 + b"."),
    "deep lists": lambda path: with_pickle(path, b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b"."),
    "archive that inflates": inflating,
    "view of 10^11 numbers": lambda path: saved(path, {"state_dict": {"w": tensor_of((100_000, 1_000_000))}}),
    "many views": lambda path: saved(path, {"state_dict": {f"w{i}": tensor_of((1000, 1000)) for i in range(500)}}),
    "sparse tensor": lambda path: saved(
        path, {"w": torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.long), torch.ones(1), (10**9, 10**9))}
    ),
    "long array of nothing": lambda path: with_pickle(path, pickle.dumps({"a": array_of_nothing()}, 2)),
    "header longer than the file": lambda path: safetensors(path.with_suffix(".safetensors"), b"{}", 2**62),
    "tensors outside the file": lambda path: safetensors(
        path.with_suffix(".safetensors"), json.dumps({"w": {**HEADER, "data_offsets": [0, 2**40]}}).encode()
    ),
    "shape of more than there is": lambda path: safetensors(
        path.with_suffix(".safetensors"), json.dumps({"w": {**HEADER, "shape": [2**40, 2**40]}}).encode()
    ),
    "header of no JSON": lambda path: safetensors(path.with_suffix(".safetensors"), b"[" * 100_000),
}


@pytest.mark.parametrize("case", BOMBS)
def test_refused_before_memory_is_taken(case, tmp_path):
    file = BOMBS[case](tmp_path / "file.pth") or tmp_path / "file.pth"
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(CheckpointError) as caught:
        load_weights_only(file)
    assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_names_of_globals_stay_in_one_short_line(tmp_path):
    """Texts of any kind may stand where a pickle of protocol 4 names what it calls."""
    text = "a\nb" * 1000
    content = b"\x80\x04\x8c\x01a" + b"X" + struct.pack("<L", len(text)) + text.encode() + b"\x93."
    with pytest.raises(CheckpointError, match="could run code") as caught:
        load_weights_only(with_pickle(tmp_path / "file.pth", content))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    long = b"\x80\x04\x93" + 9000 * b"N" + b"."  # from an empty stack; checksums come with the last piece
    archive = bytearray(with_pickle(tmp_path / "file.pth", long).read_bytes())
    archive[archive.index(b"PK\1\2") + 16] ^= 1  # of the checksum
    (tmp_path / "file.pth").write_bytes(archive)
    with pytest.raises(CheckpointError):
        load_weights_only(tmp_path / "file.pth")
    content = content[:-1] + b"\x8d" + struct.pack("<Q", 2**62)  # a text of so many bytes
    with pytest.raises(CheckpointError):
        load_weights_only(with_pickle(tmp_path / "file.pth", content))


def test_what_checkpoints_hold_is_no_bomb(tmp_path):
    weight = torch.randn(64, 64)
    names = tuple(f"class {i}" for i in range(13_000))
    content = {
        "state_dict": {f"w{i}": weight for i in range(50)},
        "meta": {"classes": names, "palette": [(1, 2, 3)] * 99},
    }
    content["state_dict"]["view"] = weight[:, :1].expand(64, 64)
    loaded = load_weights_only(saved(tmp_path / "file.pth", content))
    assert loaded["meta"]["classes"] == names
    assert loaded["state_dict"]["view"].equal(content["state_dict"]["view"])
    assert loaded["state_dict"]["w49"].equal(weight)


def test_tuples_are_restored_once():
    value = doubled(60)
    result = restore({"a": value, "b": [value]})
    assert result["b"][0] is result["a"]
    with pytest.raises(TooLarge):
        check_tuples(io.BytesIO(pickle.dumps(value)))
    check_tuples(io.BytesIO(pickle.dumps((nested(50), doubled(10)))))
