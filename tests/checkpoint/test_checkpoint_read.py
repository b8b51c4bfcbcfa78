"""Checkpoints load without running anything, by every way that MMEngine has."""

import argparse
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_cases import Runs, refusal
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, BaseModule
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from torch import nn

from localvit_det.checkpoint.read import load_weights_only
from localvit_det.errors import RequirementError


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
    torch.save({"a": Runs(getattr, *arguments)}, tmp_path / "model.pth")
    assert "builtins.getattr" in refusal(load_weights_only, tmp_path / "model.pth")


def test_a_looked_up_statistic_is_only_a_name(tmp_path):
    torch.save({"a": Runs(getattr, HistoryBuffer, "min")}, tmp_path / "model.pth")
    assert load_weights_only(tmp_path / "model.pth") == {"a": "min"}


def test_an_empty_history_loads(tmp_path):
    torch.save({"a": HistoryBuffer()}, tmp_path / "model.pth")
    assert load_weights_only(tmp_path / "model.pth")["a"].data[0].size == 0


def test_a_file_cannot_replace_statistics(tmp_path, monkeypatch):
    buffer = HistoryBuffer([1.0, 3.0], [1, 1])
    state = {**vars(buffer), "statistics_methods": {"mean": HistoryBuffer.max}, "mean": None}
    monkeypatch.setattr(HistoryBuffer, "__getstate__", lambda _self: state)
    torch.save({"a": buffer}, tmp_path / "model.pth")
    loaded = load_weights_only(tmp_path / "model.pth")["a"]
    assert type(loaded) is HistoryBuffer
    assert loaded.statistics("mean") == loaded.mean() == 2.0


def test_numpy_flags_from_a_file_are_not_believed(tmp_path):
    """With NumPy's own dtype these make floats pass for pointers to objects."""
    hostile = Runs(np.dtype, "f8", False, True, state=(3, "<", None, None, None, -1, -1, 63))
    torch.save({"a": hostile}, tmp_path / "model.pth")
    dtype = load_weights_only(tmp_path / "model.pth")["a"]
    assert dtype == np.float64
    assert not dtype.hasobject


@pytest.mark.parametrize("array", [np.array([{}, None]), np.zeros(2, "i4,f8"), np.zeros(1, "M8[s]")])
def test_arrays_of_anything_but_numbers_are_refused(tmp_path, array):
    torch.save({"a": array}, tmp_path / "model.pth")
    assert "numpy.dtype[" in refusal(load_weights_only, tmp_path / "model.pth")


def test_numpy_values_come_back(tmp_path):
    holder = [np.float32(1.5)]
    holder.append(holder)
    saved = {
        "array": np.arange(6, dtype=">i2").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "empty": np.zeros((0, 4), bool),
        "text": np.array(["a", "bc"]),
        "nested": ({"deep": [np.int64(3), (np.ones(1),)]},),
        "itself": holder,
        "tensor": torch.arange(3),
    }
    torch.save(saved, tmp_path / "model.pth")
    loaded = load_weights_only(tmp_path / "model.pth")
    for name in ("array", "fortran", "empty", "text"):
        np.testing.assert_array_equal(loaded[name], saved[name])
        assert loaded[name].dtype == saved[name].dtype
        assert loaded[name].flags.owndata
    assert loaded["nested"] == saved["nested"]
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


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))

    def forward(self, values, mode="tensor"):
        return {"loss": self.layers(values).square().mean()}


def toy_runner(work_dir, **settings) -> Runner:
    torch.manual_seed(0)
    points = [{"values": point} for point in torch.randn(8, 2)]
    return Runner(
        Toy(),
        str(work_dir),
        train_dataloader={
            "dataset": points,
            "batch_size": 4,
            "sampler": {"type": "DefaultSampler"},
            "collate_fn": {"type": "default_collate"},
        },
        train_cfg={"by_epoch": True, "max_epochs": 2},
        optim_wrapper={"type": "OptimWrapper", "optimizer": {"type": "AdamW", "lr": 0.1}},
        param_scheduler=[
            {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 3},
            {"type": "MultiStepLR", "milestones": [1]},
        ],
        custom_hooks=[{"type": "EMAHook"}],
        randomness={"seed": 1},
        experiment_name=work_dir.name,
        log_level="ERROR",
        **settings,
    )


def test_runner_checkpoint_loads_and_resumes(tmp_path):
    whole = toy_runner(tmp_path / "whole")
    whole.train()

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

    resumed = toy_runner(tmp_path / "resumed", resume=True, load_from=str(path))
    resumed.train()
    assert resumed.iter == whole.iter
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=0, atol=0)
    # What was loaded can be saved and loaded again.
    load_weights_only(tmp_path / "resumed" / "epoch_2.pth")


def test_state_of_a_detector_init_cfg(tmp_path):
    source, target = Toy(), Toy()
    torch.save({"state_dict": source.state_dict()}, tmp_path / "model.pth")
    target.init_cfg = {"type": "Pretrained", "checkpoint": str(tmp_path / "model.pth")}
    target.init_weights()
    torch.testing.assert_close(target.state_dict(), source.state_dict())


A_TEXT = "is a text, not a checkpoint (it begins with"
NOT_CHECKPOINTS = [
    (b"", "is empty"),
    (b"\n<!DOCTYPE html><html><body>\xc3\xa4</body></html>", f"{A_TEXT} '<!DOCTYPE html>"),
    (b'{"weight_map": {"a.weight": "model-00001-of-00002.safetensors"}}', f'{A_TEXT} \'{{"weight_map"'),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", f"{A_TEXT} 'version https://git-lfs"),
    (b"\x80\x02garbage", "cannot be read as a checkpoint"),
    (bytes(range(256)), "cannot be read as a checkpoint"),
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


def test_settings_of_a_training_beside_its_weights(tmp_path):
    """As timm saves them, and the official codes of Twins and PVT."""
    args = argparse.Namespace(lr=0.1, output=Path("/data/out"), nested=argparse.Namespace(names=("a", "b")))
    args.itself = args
    torch.save({"state_dict": {"a": torch.ones(1)}, "args": args}, tmp_path / "timm.pth")
    found = load_weights_only(tmp_path / "timm.pth")["args"]
    assert (found["lr"], found["output"], found["nested"]) == (0.1, "/data/out", {"names": ("a", "b")})
    assert found["itself"] is found
    torch.save({"args": Runs(argparse.Namespace, state=["no", "mapping"])}, tmp_path / "bad.pth")
    assert "cannot be read" in refusal(load_weights_only, tmp_path / "bad.pth")


def test_something_else_than_a_dictionary(tmp_path):
    torch.save(torch.zeros(2), tmp_path / "tensor.pth")
    assert "holds a Tensor" in refusal(load_weights_only, tmp_path / "tensor.pth")
    torch.save(nn.Linear(1, 1), tmp_path / "module.pth")
    assert "torch.nn.modules.linear.Linear" in refusal(load_weights_only, tmp_path / "module.pth")


def test_open_mmlab_file_of_the_user_is_loaded_safely(tmp_path, monkeypatch):
    monkeypatch.setenv("MMENGINE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    (tmp_path / "open_mmlab.json").write_text('{"mine": "mine.pth"}')
    torch.save({"a": Runs(os.system, f"touch {tmp_path / 'touched'}")}, tmp_path / "mine.pth")
    assert "system" in refusal(CheckpointLoader.load_checkpoint, "open-mmlab://mine")
    assert not (tmp_path / "touched").exists()


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
