"""Files that were made to run code or to take all memory, through the commands, and the user's own data."""

import json
import pickle
import re
import runpy

import pytest
import torch
import yaml
from checkpoint_cases import Runs, with_config
from conftest import REPOSITORY
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.infer import infer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from test_safe_config import MODEL, config, with_dataset

from localvit.commands import files, predict, train
from localvit.commands import test as test_command
from localvit_det import Detector
from localvit_det.checkpoint.config_text import as_text
from localvit_det.checkpoint.loading import load_from_local
from localvit_det.config import load_config
from localvit_det.errors import CheckpointError, ConfigError, DataError


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A folder to work in with files that would leave a mark when they are read; the mark."""
    mark = tmp_path / "was-run"
    monkeypatch.chdir(tmp_path)
    code = f"open({str(mark)!r}, 'w').close()\n"
    (tmp_path / "x.py").write_text(code)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Runs(exec, code)))
    (tmp_path / "x.yaml").write_text(f"!!python/object/apply:builtins.exec [{code.strip()!r}]\n")
    return mark


TEACHER = {"type": "KnowledgeDistillationSingleStageDetector", "teacher_config": "x.py", "backbone": {}}


RAN = {
    "config of a teacher": (predict.main, config(model=TEACHER), "teacher_config|not on the list"),
    "proposals": (test_command.main, with_dataset(proposal_file="x.pkl"), "ann_file|annotation"),
    "annotations": (test_command.main, with_dataset(type="BaseDetDataset", ann_file="x.pkl"), "ann_file|annotation"),
    "Open Images": (test_command.main, with_dataset(type="OpenImagesDataset", meta_file="x.pkl"), "annotation"),
    "exported program": (predict.main, config(model={"type": "ExportedDetector", "file": "x.pt2"}), "not on the list"),
}


@pytest.mark.parametrize("case", RAN)
def test_files_that_ran_code(case, marker, tmp_path, refused):
    command, values, words = RAN[case]
    file = with_config(tmp_path / "file.pth", values)
    said = refused(command, file, *(["photos"] if command is predict.main else []))
    if command is predict.main:
        assert "photos" in said  # sources are looked at first
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos/a.jpg").write_bytes(b"x")
        said = refused(command, file, "photos")
    sentences = [line for line in said.splitlines() if line.startswith("error: ")]
    assert re.search(words, " ".join(sentences)), sentences
    assert not marker.exists()


TEXT = "model = dict(type='RetinaNet', backbone=dict(type='DWNet', arch='tiny'))\n"
RUN = "__import__('pathlib').Path({!r}).touch()"


@pytest.mark.parametrize("tool", ["test", "publish_model"])
@pytest.mark.parametrize("hostile", ["x_ = " + RUN, "model = dict(type='os.system', command='touch {}')"])
def test_tools_run_nothing(tmp_path, refused, tool, hostile):
    marker = tmp_path / "was-run"
    file = with_config(tmp_path / "file.pth", hostile.format(str(marker)))
    said = refused(runpy.run_path(str(REPOSITORY / f"tools/{tool}.py"))["main"], file)
    [sentence] = [line for line in said.splitlines() if line.startswith("error: ")]
    assert f"The config in {file} is refused" in sentence
    assert not marker.exists()


def test_inference_and_resuming_run_nothing(tmp_path):
    marker, file = tmp_path / "was-run", str(tmp_path / "file.pth")
    program = TEXT + "x_ = " + RUN.format(str(marker))
    content = {"meta": {"cfg": program, "config": program}, "message_hub": {"runtime_info": {"cfg": program}}}
    torch.save({"state_dict": {}, **content}, file)
    resumed, inferred = load_from_local(file), infer._load_checkpoint(file, map_location="cpu")
    for text in (resumed["meta"]["config"], inferred["meta"]["cfg"], inferred["message_hub"]["runtime_info"]["cfg"]):
        with pytest.raises(Exception, match=r"The config in .*file.pth is refused: line 2 has a call"):
            Config.fromstring(text, ".py")
    assert not marker.exists()
    assert resumed["message_hub"] == content["message_hub"]  # what goes on from it saves it again


def test_inference_takes_what_the_user_has_registered(tmp_path):
    @MODELS.register_module()
    class NetworkOfMine(BaseModule):
        pass

    def loaded(*names: str) -> Config:
        parts = ", ".join(f"dict(type='{name}')" for name in names)
        torch.save({"meta": {"cfg": f"model = dict(type='RetinaNet', parts=[{parts}])\n"}}, tmp_path / "file.pth")
        return Config.fromstring(infer._load_checkpoint(str(tmp_path / "file.pth"))["meta"]["cfg"], ".py")

    try:
        assert [part.type for part in loaded("NetworkOfMine", "DWNet").model.parts] == ["NetworkOfMine", "DWNet"]
        with pytest.raises(Exception, match=r"'NetworkOfOthers' is not on the list .*: give the inferencer a config"):
            loaded("NetworkOfMine", "NetworkOfOthers")
    finally:
        del MODELS.module_dict["NetworkOfMine"]


def test_pickled_annotations_are_refused(marker, tmp_path):
    from mmdet.datasets import BaseDetDataset

    load_config("mask_rcnn_shuffle_nano_shapes")
    with pytest.raises(DataError, match="allow_pickle=True"):
        BaseDetDataset(ann_file="x.pkl")
    (tmp_path / "x.json").write_text(json.dumps({"metainfo": {}, "data_list": [{"img_path": "a.jpg"}]}))
    with pytest.raises(DataError, match="allow_pickle=True"):
        BaseDetDataset(ann_file="x.json", proposal_file="x.pkl")
    with pytest.raises(yaml.YAMLError):
        BaseDetDataset(ann_file="x.yaml")
    assert not marker.exists()


def test_pickles_are_read_where_the_user_says_so(tmp_path):
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"a": 1}))
    load_config("mask_rcnn_shuffle_nano_shapes", {"allow_pickle": True})
    assert load(tmp_path / "plain.pkl") == {"a": 1}
    load_config("mask_rcnn_shuffle_nano_shapes")
    with pytest.raises(DataError):
        load(tmp_path / "plain.pkl")


def test_class_hierarchy_of_open_images(tmp_path, marker):
    import numpy as np

    np.save(tmp_path / "plain.npy", np.eye(3))
    np.save(tmp_path / "hostile.npy", np.array([Runs(exec, f"open({str(marker)!r}, 'w')")], dtype=object))
    config = tmp_path / "config.py"
    for name, options in (("plain", {}), ("hostile", {"allow_pickle": True}), ("hostile", {})):
        dataset = {"type": "OpenImagesChallengeDataset", "data_root": str(tmp_path), "hierarchy_file": f"{name}.npy"}
        config.write_text(f"train_dataloader = dict(dataset={dataset})\n")
        if options or name == "plain":
            load_config(config, options)
        else:
            with pytest.raises(DataError, match=r"hostile\.npy is a pickle.*allow_pickle=True"):
                load_config(config)
    assert not marker.exists()


def test_folder_of_a_file_counts_where_the_training_was_started(tmp_path):
    from localvit_det.config.run import find_run

    started = {"config": "x", "options": [["allow_pickle", "True"]], "switches": {}, "work_dir": str(tmp_path)}
    (tmp_path / "came_with_it").mkdir()
    for folder in (tmp_path, tmp_path / "came_with_it"):
        (folder / "config.py").write_text(as_text(config(started_with=started)))
    assert find_run(tmp_path / "epoch_1.pth").options == {"allow_pickle": "True"}
    assert find_run(tmp_path / "came_with_it/epoch_1.pth") is None
    assert find_run(tmp_path / "came_with_it") is not None  # named by the user


@pytest.mark.parametrize(
    "backbone",
    [
        {"type": "DWNet", "arch": {"embed_dims": 60_000, "depths": (2, 2, 6, 2), "drop_path_rate": 0.0}},
        {"type": "DWNet", "arch": {"embed_dims": 32, "depths": (50_000, 2, 6, 2), "drop_path_rate": 0.0}},
        {"type": "SwinTransformer", "embed_dims": 96_000},
        {"type": "SwinTransformer", "window_size": 50_001},
    ],
)
def test_model_of_another_size_than_its_weights(backbone, tmp_path):
    model = Config.fromfile(REPOSITORY / "configs/mask_rcnn_dwnet_nano_shapes.py").model.to_dict()
    file = str(with_config(tmp_path / "file.pth", config(model={**model, "backbone": backbone})))
    with pytest.raises(CheckpointError, match="many times larger than its weights"):
        Detector(file, device="cpu")


ARCH = {"depths": (2, 2, 6, 2), "drop_path_rate": 0.0}


def test_commands_refuse_such_a_model(tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = str(
        with_config(tmp_path / "file.pth", config(model={"type": "DWNet", "arch": {**ARCH, "embed_dims": 60_000}}))
    )
    for command, more in ((test_command.main, []), (files.export, ["--out", "x.onnx"]), (train.main, [])):
        assert "many times larger than its weights; give a config" in refused(command, file, *more)


def test_arguments_that_fit_no_constructor(tmp_path):
    file = with_config(
        tmp_path / "file.pth", config(model={**MODEL, "backbone": {"type": "DWNet", "arch": "tiny", "x": 1}})
    )
    with pytest.raises(ConfigError, match=r"The model that .*file\.pth describes cannot be built \(TypeError"):
        Detector(file, device="cpu")
