"""What a config inside a file of weights may ask for: an allow-list, and variants made up against it."""

import inspect
import json
import re

import pytest
import torch
from checkpoint_cases import config_refusal, with_config
from conftest import REPOSITORY
from mmengine.config import Config
from mmengine.registry import Registry

from localvit_det.checkpoint.config_text import as_text, parse, to_json
from localvit_det.checkpoint.publish import publish
from localvit_det.checkpoint.read import saved_classes
from localvit_det.checkpoint.safe_config import OPERATORS, TYPES, metainfo_of, own_types, read_config, take
from localvit_det.config import load_config
from localvit_det.errors import CheckpointError

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
    names = own_types().union(*TYPES.values())
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
    assert {"MemoryEfficientFCNMaskHead", "LeanFCNMaskHead", "TwinsSVT", "GGTransformer"} <= own_types()
    assert not own_types() & {"FCNMaskHead", "SwinTransformer"}


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
    cfg = load_config(
        with_config(tmp_path / "file.pth", config(default_hooks={"checkpoint": {"filename_tmpl": "../x"}}))
    )
    ours = Config.fromfile(REPOSITORY / "configs/_base_/faster_rcnn_1x.py")
    assert cfg.default_hooks.to_dict() == ours.default_hooks.to_dict()
    assert cfg.optim_wrapper.to_dict() == ours.optim_wrapper.to_dict()
    assert cfg.test_dataloader.dataset.ann_file == ours.test_dataloader.dataset.ann_file
    assert cfg.test_dataloader.dataset.pipeline[1]["scale"] == (64, 64)
    assert cfg.test_dataloader.dataset.metainfo["classes"] == ("a", "b")
    assert cfg.model.to_dict() == MODEL  # with nothing of our own model


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
    config_refusal(as_text(VARIANTS[case]))


def test_reading_from_elsewhere_is_left_out():
    steps = [{**PIPELINE[0], "backend_args": {"backend": "http"}, "file_client_args": {"backend": "petrel"}}]
    values = read_config({"meta": {"cfg": as_text(with_dataset(pipeline=steps))}}, "file.pth")
    assert values["test_pipeline"] == [{"type": "LoadImageFromFile"}]


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


@pytest.mark.parametrize("name", ["mask_rcnn_shuffle_nano_shapes", "cascade_mask_rcnn_ddwnet_t_3x_coco"])
def test_configs_as_mmengine_keeps_them(name):
    cfg = Config.fromfile(REPOSITORY / f"configs/{name}.py")
    values = read_config({"meta": {"cfg": cfg.pretty_text}}, "file.pth")
    expected = cfg.to_dict()
    assert values["model"]["roi_head"] == expected["model"]["roi_head"]
    steps = [{key: item for key, item in step.items() if key != "backend_args"} for step in values["test_pipeline"]]
    assert values["test_pipeline"] == steps
    assert [step["type"] for step in steps] == [
        step["type"] for step in expected["test_dataloader"]["dataset"]["pipeline"]
    ]
    # what is published, and what MMDetection's own inference runs, are the same values
    assert parse(to_json(values)) == values
    assert Config.fromstring(as_text(values), ".py").to_dict() == values


def test_weights_to_start_from_are_left_out():
    text = (
        "load_from = 'x.pth'\nwork_dir = '/w'\nmodel = dict(type='RetinaNet', pretrained='torchvision://resnet50', "
        "backbone=dict(type='DWNet', init_cfg=[dict(type='Pretrained', checkpoint='https://a/b.pth'), "
        "dict(type='Constant', val=1)]), neck=dict(type='FPN', init_cfg=dict(type='Pretrained', checkpoint='x')))"
    )
    values = read_config({"meta": {"cfg": text}}, "file.pth")
    model = {"type": "RetinaNet", "pretrained": None, "neck": {"type": "FPN", "init_cfg": None}}
    assert values == {"model": {**model, "backbone": {"type": "DWNet", "init_cfg": [{"type": "Constant", "val": 1}]}}}


def test_trust_lifts_the_limits_of_values():
    text = (
        "model = dict(type='mine.Net')\ncustom_imports = dict(imports=['mine'])\ntrain_dataloader = dict(x='/mine')\n"
    )
    values = read_config({"meta": {"cfg": text}}, "file.pth", trusted=True)
    assert values["model"] == {"type": "mine.Net"}
    assert values["custom_imports"] == {"imports": ["mine"]}
    assert values["train_dataloader"] == {"x": "/mine"}
    assert "not on the list" in config_refusal(text)
    assert "_base_" in config_refusal("_base_ = '/tmp/evil.py'", trusted=True)


def test_long_names_of_types_become_registered_ones():
    text = "model = dict(type='mmdet.models.detectors.RetinaNet', backbone=dict(type='mmdet.ResNet', depth=50))"
    values = read_config({"meta": {"cfg": text}}, "file.pth")
    assert values["model"] == {"type": "RetinaNet", "backbone": {"type": "mmdet.ResNet", "depth": 50}}


def test_no_config():
    with pytest.raises(CheckpointError, match="carries no config: name a config, and the checkpoint with it"):
        read_config({"meta": {}}, "file.pth")
