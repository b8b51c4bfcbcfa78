"""The config inside a checkpoint is data: what it may say, what is refused, and that nothing of it is ever run."""

import json
import math
import runpy

import pytest
import torch
from conftest import REPOSITORY
from mmengine.config import Config

from localvit_det.checkpoint.config_text import NotPlain, as_text, parse, to_json
from localvit_det.checkpoint.loading import load_from_local
from localvit_det.checkpoint.publish import publish
from localvit_det.checkpoint.read import load_weights_only
from localvit_det.checkpoint.safe_config import defuse, read_config
from localvit_det.config import load_config
from localvit_det.errors import CheckpointError

MODEL = "model = dict(type='RetinaNet', backbone=dict(type='DWNet', arch='tiny'))\n"
RUN = "__import__('pathlib').Path({!r}).touch()"


def refusal(text: str, trusted: bool = False) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_config({"meta": {"cfg": text}}, "file.pth", trusted)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.startswith("The config in file.pth is refused: ")
    return sentence


# ---------------------------------------------------------------------------------------------- what is read


def test_plain_values_are_read():
    text = (
        '"""A comment."""\na = 1\nb = -2.5e-3\nc = [True, None, (1,), ()]\n'
        "d = dict({'x.y': dict(k='v')}, z={3: []})\ne = inf\nf = -inf\ng = 'quote\\' and \\n'\n"
    )
    values = parse(text)
    assert values == {
        "a": 1, "b": -0.0025, "c": [True, None, (1,), ()], "d": {"x.y": {"k": "v"}, "z": {3: []}},
        "e": math.inf, "f": -math.inf, "g": "quote' and \n",
    }  # fmt: skip
    assert parse(as_text(values)) == values
    assert math.isnan(parse(as_text({"n": math.nan}))["n"])


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


# ---------------------------------------------------------------------------------------------- programs


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x_ = __import__('os').system('true')", "a call of __import__('os').system"),
        ("__import__('os').system('true')", "code (Expr)"),
        ("import os", "an import"),
        ("from os import system", "an import"),
        ("x = model", "the name model for a value"),
        ("x = 9 ** 9 ** 9", "a computation"),
        ("x = 'a' * 10 ** 9", "a computation"),
        ("x = 1 + 1", "a computation"),
        ("x = [i for i in (1, 2)]", "code (ListComp)"),
        ("x = lambda: 0", "code (Lambda)"),
        ("x = f'{1}'", "code (JoinedStr)"),
        ("x = dict(**{'a': 1})", "a call of dict"),
        ("x = {**{'a': 1}}", "code (Dict)"),
        ("x = dict([('a', 1)])", "a call of dict"),
        ("x = b'bytes'", "code (Constant)"),
        ("x = model.type", "code (Attribute)"),
        ("x = y = 1", "code (Assign)"),
        ("x, y = 1, 2", "code (Assign)"),
        ("x.y = 1", "code (Assign)"),
        ("x: int = 1", "code (AnnAssign)"),
        ("x = (y := 1)", "code (NamedExpr)"),
        ("def f(): pass", "code (FunctionDef)"),
        ("if True: x = 1", "code (If)"),
        ("x = float('1')", "a call of float"),
        ("x = '{{ fileDirname }}'", "a template in a text"),
        ("x = '{{$HOME:/}}/x'", "a template in a text"),
        ("x = {'a\\': 1, __import__(\"os\"): 2, \\'b': 1}", "no plain name"),
        ("x = {(1, 2): 3}", "no plain name"),
        ("x = " + "[" * 150 + "]" * 150, "nested"),
        ("x = " + "-" * 5000 + "1", ""),
        ("x = (", "was never closed"),
    ],
)
def test_program_is_refused_by_name_and_line(line, words):
    for trusted in (False, True):
        sentence = refusal(MODEL + line, trusted)
        assert words in sentence
        assert "line 2" in sentence or "cannot be parsed" in sentence


def test_what_is_no_text_or_too_long():
    assert "no text" in refusal(["x"])
    assert "characters" in refusal("#" * 400_001)


# ---------------------------------------------------------------------------------------------- with trust


def test_trust_lifts_the_limits_of_values():
    text = "model = dict(type='mine.Net')\ncustom_imports = dict(imports=['mine'])\n"
    values = read_config({"meta": {"cfg": text}}, "file.pth", trusted=True)
    assert values["model"] == {"type": "mine.Net"}
    assert values["custom_imports"] == {"imports": ["mine"]}
    assert "not on the list" in refusal(text)
    assert "_base_" in refusal("_base_ = '/tmp/evil.py'", trusted=True)


def test_long_names_of_types_become_registered_ones():
    text = "model = dict(type='mmdet.models.detectors.RetinaNet', backbone=dict(type='mmdet.ResNet', depth=50))"
    values = read_config({"meta": {"cfg": text}}, "file.pth")
    assert values["model"] == {"type": "RetinaNet", "backbone": {"type": "mmdet.ResNet", "depth": 50}}


# ---------------------------------------------------------------------------------------------- the tools


def saved(tmp_path, text: str, **more):
    content = {"state_dict": {"w": torch.zeros(1)}, "meta": {"dataset_meta": {"classes": ("a",)}, **more}}
    content["meta"]["cfg"] = text
    torch.save(content, tmp_path / "file.pth")
    return tmp_path / "file.pth"


@pytest.mark.parametrize("tool", ["test", "publish_model"])
@pytest.mark.parametrize("hostile", ["x_ = " + RUN, "model = dict(type='os.system', command='touch {}')"])
def test_tools_run_nothing(tmp_path, capsys, tool, hostile):
    marker = tmp_path / "was-run"
    file = saved(tmp_path, hostile.format(str(marker)))
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(REPOSITORY / f"tools/{tool}.py"))["main"]([str(file)])
    assert stop.value.code == 1
    [sentence] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"The config in {file} is refused" in sentence
    assert not marker.exists()


def test_inference_and_resuming_run_nothing(tmp_path):
    marker = tmp_path / "was-run"
    program = MODEL + "x_ = " + RUN.format(str(marker))
    content = {"meta": {"cfg": program, "config": program}, "message_hub": {"runtime_info": {"cfg": program}}}
    torch.save({"state_dict": {}, **content}, tmp_path / "file.pth")
    loaded = load_from_local(tmp_path / "file.pth")
    for text in (loaded["meta"]["cfg"], loaded["meta"]["config"], loaded["message_hub"]["runtime_info"]["cfg"]):
        with pytest.raises(Exception, match=r"The config in .*file.pth is refused: line 2 has a call"):
            Config.fromstring(text, ".py")
    assert not marker.exists()
    good = {"meta": {"cfg": MODEL}}
    defuse(good, "file.pth")
    assert Config.fromstring(good["meta"]["cfg"], ".py").model.backbone.type == "DWNet"


def test_published_config_is_data_and_stays_in_its_folder(tmp_path):
    file = saved(tmp_path, MODEL, experiment_name="../../outside_20200101_000000")
    published = publish(file, tmp_path / "out")
    text = load_weights_only(published)["meta"]["cfg"]
    assert json.loads(text).keys() == {"model", "metainfo"}
    assert published.parent == tmp_path / "out"
    assert published.name.startswith("outside-")
    assert load_config(published).model.backbone.arch == "tiny"


def test_no_config(tmp_path):
    with pytest.raises(CheckpointError, match="carries no config"):
        read_config({"meta": {}}, "file.pth")
    with pytest.raises(NotPlain, match="cannot be written"):
        as_text({"x": object()})
