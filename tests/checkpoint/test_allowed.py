"""What a config inside a file of weights may ask for: an allow-list, the files that got round the lists before it, and
variants made up against it.
"""

import inspect
import json
import pickle
import re

import pytest
import torch
import yaml
from checkpoint_cases import Runs
from conftest import REPOSITORY
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import Registry

from localvit.commands import export, predict, train
from localvit.commands import test as test_command
from localvit_det import Detector
from localvit_det.checkpoint.config_text import as_text, to_json
from localvit_det.checkpoint.publish import publish
from localvit_det.checkpoint.read import saved_classes
from localvit_det.checkpoint.safe_config import OPERATORS, TYPES, metainfo_of, read_config, take
from localvit_det.config import load_config
from localvit_det.errors import CheckpointError, ConfigError, DataError

PIPELINE = [
    {"type": "LoadImageFromFile", "backend_args": None},
    {"type": "Resize", "scale": (64, 64), "keep_ratio": True},
    {"type": "LoadAnnotations", "with_bbox": True},
    {"type": "PackDetInputs", "meta_keys": ("img_id", "ori_shape", "img_shape", "scale_factor")},
]
MODEL = {"type": "RetinaNet", "backbone": {"type": "DWNet", "arch": "tiny"}}


def config(**changes) -> dict:
    dataset = {"type": "CocoDataset", "pipeline": PIPELINE}
    return {"default_scope": "mmdet", "model": MODEL, "test_dataloader": {"dataset": dataset}, **changes}


def with_dataset(**changes) -> dict:
    return config(test_dataloader={"dataset": {"type": "CocoDataset", "pipeline": PIPELINE, **changes}})


def saved(path, values: dict | str):
    text = values if isinstance(values, str) else as_text(values)
    meta = {"cfg": text, "dataset_meta": {"classes": ("a", "b")}}
    torch.save({"state_dict": {"w": torch.zeros(1)}, "meta": meta}, path)
    return path


# ------------------------------------------------------------------------------------------------ the list itself


def registered() -> dict[str, list]:
    from importlib import import_module

    found: dict[str, list] = {}
    for package in ("mmengine", "mmdet", "mmseg", "mmpretrain"):
        if package != "mmengine":
            try:
                import_module(f"{package}.utils").register_all_modules(init_default_scope=False)
            except ImportError:
                continue
        for registry in vars(import_module(f"{package}.registry")).values():
            if isinstance(registry, Registry):
                for name, cls in registry.module_dict.items():
                    found.setdefault(name, []).append(cls)
    return found


READS = re.compile(
    r"file|path|checkpoint|ckpt|config|pretrain|url|dir(?!ection)|root|teacher|weights|class_weight|backend"
)
# Looked at one by one: numbers, switches, words, or what `take` leaves out (pretrained, backend_args).
LOOKED_AT = {
    *("backend", "backend_args", "file_client_args", "imdecode_backend", "pretrained", "pretrain_img_size"),
    *("convert_weights", "drop_path_rate", "paths", "class_weight", "use_class_weight", "stage_loss_weights"),
    *("loss_weights", "channel_weights"),
}


@pytest.mark.slow
def test_constructors_on_the_list_read_no_files():
    """Every name is registered, so that MMEngine imports none; and no argument can name a file unless looked at."""
    classes = registered()
    names = set().union(*TYPES.values())
    assert names - classes.keys() <= {"CropObject"}  # of the pretraining, registered where that is imported
    strange = set()
    for name in names & classes.keys():
        for cls in classes[name]:
            for base in inspect.getmro(cls) if inspect.isclass(cls) else [cls]:
                if base.__module__.startswith(("torch.", "builtins")):
                    continue
                try:
                    parameters = set(inspect.signature(base).parameters)
                except ValueError:
                    continue
                strange |= {(name, one) for one in parameters if READS.search(one)}
    assert {pair for pair in strange if pair[1] not in LOOKED_AT} == set()


@pytest.mark.slow
def test_configs_of_all_families_are_on_the_list():
    folder = REPOSITORY / "configs"
    for file in [*folder.glob("*.py"), *folder.glob("pretrain/*.py")]:
        whole = Config.fromfile(file).to_dict()
        taken = take(json.loads(json.dumps(whole)))
        assert taken["model"]["type"] == whole["model"]["type"]
        assert taken["test_pipeline"], file


def test_lists_do_not_overlap():
    names = [name for kind in TYPES.values() for name in kind]
    assert len(names) == len(set(names))
    assert not OPERATORS & set(names)


# ------------------------------------------------------------------------------------------------ what is taken


def test_only_model_pipeline_classes_and_scope_are_taken():
    hostile = with_dataset(ann_file="x.pkl", proposal_file="x.pkl", data_root="/evil", data_prefix={"img": "/evil"})
    hostile |= {
        "work_dir": "/evil",
        "custom_hooks": [{"type": "evil.Hook"}],
        "default_hooks": {"checkpoint": {"type": "CheckpointHook", "filename_tmpl": "../../evil.txt"}},
        "custom_imports": {"imports": ["evil"]},
        "visualizer": {
            "type": "DetLocalVisualizer",
            "vis_backends": [{"type": "WandbVisBackend", "save_dir": "/evil"}],
        },
        "test_evaluator": {"type": "DumpDetResults", "out_file_path": "/evil.pkl"},
        "optim_wrapper": {"constructor": "evil.abort"},
        "launcher": "evil",
        "data_root": "https://evil",
    }
    content = {"meta": {"cfg": as_text(hostile), "dataset_meta": {"CLASSES": ["a"], "evil": "/evil"}}}
    values = read_config(content, "file.pth")
    assert values.keys() == {"default_scope", "model", "test_pipeline", "metainfo"}
    assert values["metainfo"] == {"classes": ("a",)}
    assert "evil" not in str(values)
    assert values["test_pipeline"][1] == {"type": "Resize", "scale": (64, 64), "keep_ratio": True}
    assert read_config({"meta": {"cfg": to_json(values)}}, "file.pth") == values


def test_the_rest_comes_from_our_own_configs(tmp_path):
    cfg = load_config(saved(tmp_path / "file.pth", config(default_hooks={"checkpoint": {"filename_tmpl": "../x"}})))
    ours = Config.fromfile(REPOSITORY / "configs/_base_/faster_rcnn_1x.py")
    assert cfg.default_hooks.to_dict() == ours.default_hooks.to_dict()
    assert cfg.optim_wrapper.to_dict() == ours.optim_wrapper.to_dict()
    assert cfg.test_dataloader.dataset.ann_file == ours.test_dataloader.dataset.ann_file
    assert cfg.test_dataloader.dataset.pipeline[1]["scale"] == (64, 64)
    assert cfg.test_dataloader.dataset.metainfo["classes"] == ("a", "b")
    assert cfg.model.to_dict() == MODEL  # with nothing of our own model


def test_trust_takes_all_of_it(tmp_path):
    values = read_config({"meta": {"cfg": as_text(with_dataset(data_root="/mine"))}}, "file.pth", trusted=True)
    assert values["test_dataloader"]["dataset"]["data_root"] == "/mine"


# ------------------------------------------------------------------------------------------------ that ran code


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
def test_files_that_ran_code(case, marker, tmp_path, capsys):
    command, values, words = RAN[case]
    file = saved(tmp_path / "file.pth", values)
    with pytest.raises(SystemExit) as stop:
        command([str(file), *(["photos"] if command is predict.main else [])])
    if command is predict.main:
        assert "photos" in capsys.readouterr().err  # sources are looked at first
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos/a.jpg").write_bytes(b"x")
        with pytest.raises(SystemExit) as stop:
            command([str(file), "photos"])
    assert stop.value.code == 1
    sentences = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert re.search(words, " ".join(sentences)), sentences
    assert not marker.exists()


# ------------------------------------------------------------------------------------------------ variants


def nested(depth: int) -> dict:
    node: dict = {"type": "ReLU"}
    for _ in range(depth):
        node = {"inner": node}
    return node


def model(**changes) -> dict:
    return config(model={**MODEL, **changes})


def pipeline(*steps: dict) -> dict:
    return with_dataset(pipeline=[*PIPELINE, *steps])


VARIANTS = {
    "in a list of lists": model(neck=[[{"type": "ChannelMapper"}, [{"type": "os.system", "command": "true"}]]]),
    "scope to import": model(neck={"_scope_": "x", "type": "FPN"}),
    "scope of the file": config(default_scope="x"),
    "scope in a type": model(neck={"type": "x.FPN"}),
    "place of a class of others": model(neck={"type": "mmdet.models.detectors.kd_one_stage.exec"}),
    "a listed name of another package": model(neck={"type": "x.y.FPN"}),
    "lambda": model(test_cfg={"nms": {"type": "(lambda: exec('x'))"}}),
    "expression of names": model(test_cfg={"nms": {"type": "nms or x"}}),
    "type that is no text": model(neck={"type": ["FPN"]}),
    "weights of a layer": model(neck={"type": "FPN", "init_cfg": [[{"type": "Pretrained", "checkpoint": "x"}], "x.y"]}),
    "weights of a loss": model(bbox_head={"loss_cls": {"type": "CrossEntropyLoss", "class_weight": "x.pkl"}}),
    "key of a file": model(bbox_head={"type": "RetinaHead", "label_file": "x"}),
    "path as a word": model(bbox_head={"type": "RetinaHead", "any": "../x"}),
    "address": model(backbone={"type": "DWNet", "any": "http://x"}),
    "template": model(backbone={"type": "DWNet", "any": "{$HOME}"}),
    "detector of Detectron2": model(type="Detectron2Wrapper", detector={"MODEL": {}}),
    "language model": model(backbone={"type": "BertModel", "name": "x"}),
    "TIMM": model(backbone={"type": "mmpretrain.TIMMBackbone", "model_name": "x", "checkpoint_path": "x"}),
    "nested deep": model(neck=nested(70)),
    "number of many digits": model(neck={"type": "FPN", "num_outs": 10**4000}),
    "key that is no name": model(neck={"type": "FPN", "a b": 1}),
    "Albu": pipeline({"type": "Albu", "transforms": [{"type": "Lambda"}]}),
    "text of labels": pipeline({"type": "RandomSamplingNegPos", "tokenizer_name": "x"}),
    "torchvision": pipeline({"type": "torchvision/Lambda", "lambd": "x"}),
    "model among transforms": pipeline({"type": "RetinaNet"}),
    "transform in a model": model(neck={"type": "LoadImageFromFile"}),
    "transforms inside one": pipeline({"type": "TestTimeAug", "transforms": [[{"type": "exec"}]]}),
}


@pytest.mark.parametrize("case", VARIANTS)
def test_variants_are_refused(case):
    with pytest.raises(CheckpointError, match=r"^The config in file\.pth is refused: ") as caught:
        read_config({"meta": {"cfg": as_text(VARIANTS[case])}}, "file.pth")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        "{" + '"model": ' * 2,
        '{"model": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"model": {"type": "RetinaNet", "n": ' + "9" * 5000 + "}}",
        '{"$schema": "http://x", "model": {"type": "exec"}}',
        '{"_base_": "x.py"}',
        "[1]",
    ],
    ids=["cut off", "nested", "digits", "schema", "parent", "list"],
)
def test_json_that_is_no_config(text):
    with pytest.raises(CheckpointError, match="is refused"):
        read_config({"meta": {"cfg": text}}, "file.pth")


def test_reading_from_elsewhere_is_left_out():
    steps = [{**PIPELINE[0], "backend_args": {"backend": "http"}, "file_client_args": {"backend": "petrel"}}]
    values = read_config({"meta": {"cfg": as_text(with_dataset(pipeline=steps))}}, "file.pth")
    assert values["test_pipeline"] == [{"type": "LoadImageFromFile"}]


# ------------------------------------------------------------------------------------------------ the user's own data


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
    file = str(saved(tmp_path / "file.pth", config(model={**model, "backbone": backbone})))
    with pytest.raises(CheckpointError, match="many times larger than its weights"):
        Detector(file, device="cpu")


ARCH = {"depths": (2, 2, 6, 2), "drop_path_rate": 0.0}


def test_commands_refuse_such_a_model(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = str(saved(tmp_path / "file.pth", config(model={"type": "DWNet", "arch": {**ARCH, "embed_dims": 60_000}})))
    for command, arguments in ((test_command, [file]), (export, [file, "--out", "x.onnx"]), (train, [file])):
        with pytest.raises(SystemExit) as stop:
            command.main(arguments)
        assert stop.value.code == 1
        assert "many times larger than its weights; give a config" in capsys.readouterr().err


def test_arguments_that_fit_no_constructor(tmp_path):
    file = saved(tmp_path / "file.pth", config(model={**MODEL, "backbone": {"type": "DWNet", "arch": "tiny", "x": 1}}))
    with pytest.raises(ConfigError, match=r"The model that .*file\.pth describes cannot be built \(TypeError"):
        Detector(file, device="cpu")


@pytest.mark.parametrize(
    ("meta", "taken"),
    [
        ({"CLASSES": ("cat", "dog"), "PALETTE": [(1, 2, 255), [0, 0, 0]]}, {"palette": [(1, 2, 255), (0, 0, 0)]}),
        ({"classes": ["cat", "dog"], "palette": [(1, 2, 256)]}, {}),
        ({"classes": ["cat", "dog"], "palette": [(1, -1, 25)]}, {}),
        ({"classes": ["cat", "dog"], "palette": [(1, 2)]}, {}),
        ({"classes": ["cat", "dog"], "palette": [(1, 2, True)], "other": [1]}, {}),
        ({"palette": [(1, 2, 3)]}, None),
        ({"classes": ["cat", 3.0]}, None),
        ([], None),
    ],
)
def test_names_and_colors_of_classes(meta, taken):
    assert metainfo_of(meta) == ({} if taken is None else {"classes": ("cat", "dog"), **taken})


NO_CLASSES = [
    [1],
    "x",
    {"dataset_meta": 5},
    {"dataset_meta": [1]},
    {"dataset_meta": {"classes": 7}},
    {"dataset_meta": {1: 2, "classes": ([], None)}},
    {"CLASSES": {"a": 1}},
]


@pytest.mark.parametrize("meta", NO_CLASSES)
def test_classes_that_are_none(meta, tmp_path):
    torch.save({"state_dict": {"w": torch.zeros(1)}, "meta": meta}, tmp_path / "file.pth")
    assert saved_classes(tmp_path / "file.pth") is None
    with pytest.raises(CheckpointError, match="does not say its classes"):
        publish(tmp_path / "file.pth")
