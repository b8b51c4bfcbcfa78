"""`--cfg-options`: numbers and lists are read, texts come through as they were typed."""

import argparse

import pytest
from coco_folder import write_coco, write_config

from localvit_det.config import load_config
from localvit_det.config.options import read_options
from localvit_det.config.utils import find_datasets
from localvit_det.config_names import HELP, OptionsAction
from localvit_det.errors import ConfigError

CONFIG = {
    "classes": ("a", "b"),
    "scale": (1333, 800),
    "metric": ["bbox", "segm"],
    "steps": [{"scale": (1, 2), "name": "x"}],
    "model": {"depth": 50, "style": "pytorch", "none": None},
}


def typed(*arguments: str) -> dict:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=OptionsAction, help=HELP)
    assert "KEY=VALUE" in parser.format_help() or "VALUE" in parser.format_help()
    return read_options(parser.parse_args(["--cfg-options", *arguments]).cfg_options, CONFIG)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("1e-4", 1e-4),
        (".5", 0.5),
        ("1.", 1.0),
        ("inf", float("inf")),
        ("True", True),
        ("false", False),
        ("None", None),
        ("null", None),
        ("", ""),
        ("auto", "auto"),
        ("'3'", "3"),
        ('"None"', "None"),
        ("0123456", 123456),
        ("1.2.3", "1.2.3"),
        ("1j", "1j"),
        ("nan", "nan"),
        ("it's", "it's"),
        ("a=b", "a=b"),
        ("two words", "two words"),
        (" spaces ", " spaces "),
        ("a,b", "a,b"),
        ("a, (b]", "a, (b]"),
        ("(old) and (new)", "(old) and (new)"),
        ("1,2", [1, 2]),
        ("1, 2.5", [1, 2.5]),
        ("[]", []),
        ("()", ()),
        ("{}", {}),
        ("[a,b]", ["a", "b"]),
        ("[a b, 'c, d', 2, [x], (y,), none]", ["a b", "c, d", 2, ["x"], ("y",), None]),
        ("[(1,2),(3,4)]", [(1, 2), (3, 4)]),
        ("(0.33, 0.5)", (0.33, 0.5)),
        ('{"a": true, "b": [1, null]}', {"a": True, "b": [1, None]}),
        ("{a: 1, 'b:c': x y, 3: {d: []}}", {"a": 1, "b:c": "x y", 3: {"d": []}}),
        ("dict(type='AdamW', lr=1e-3)", {"type": "AdamW", "lr": 1e-3}),
        ("dict(type=AdamW)", "dict(type=AdamW)"),
        ("[it's, 5' 3]", ["it's", "5' 3"]),
        ("['a]', \"b[\"]", ["a]", "b["]),
        ("C:\\new,folder", "C:\\new,folder"),
    ],
)
def test_values(text, value):
    found = typed(f"model.new={text}")["model.new"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("metric=bbox,segm", ["bbox", "segm"]),
        ("metric=bbox", "bbox"),
        ("scale=320,192", (320, 192)),
        ("steps.0.scale=320,192", (320, 192)),
        ("steps.0.name=320 x 192", "320 x 192"),
        ("steps.7.name=a,b", "a,b"),
        ("model.style=a,b", "a,b"),
        ("model.depth.deeper=a,b", "a,b"),
        ("classes=auto", "auto"),
        ("classes=traffic light", "traffic light"),
        ("classes=traffic light, dog", ("traffic light", "dog")),
        ('classes=["traffic light", dog]', ["traffic light", "dog"]),
        ("classes=[car (old), 1e3, None, True]", ["car (old)", "1e3", "None", "True"]),
        ("train_dataloader.dataset.metainfo.classes=('circle','sqare')", ("circle", "sqare")),
    ],
)
def test_lists_without_brackets_are_taken_where_the_config_has_one(option, value):
    assert list(typed(option).values()) == [value]


@pytest.mark.parametrize(
    "path",
    ["/data/with space", "/a,b", "/[x], (y)/{z}", "2017", "[all]", "(1,2)", "True", "/it's", "../a=b", " /edge ", "-"],
)
def test_paths_stay_as_typed(path):
    for key in ("data_root", "train_dataloader.dataset.data_prefix.img", "val_evaluator.ann_file", "load_from"):
        assert typed(f"{key}={path}") == {key: path}
    assert typed(f"data_root='{path}'" if "'" not in path else f'data_root="{path}"') == {"data_root": path}


def test_no_path():
    assert typed("load_from=None") == {"load_from": None}


@pytest.mark.parametrize("option", ["x=[a, b", "x=(a]", "x=[a, 'b]", "x={a, b}", "x={a: 1, b}", "classes=[a"])
def test_broken_values_are_one_sentence(option):
    with pytest.raises(ConfigError, match=r"^The option (x|classes)") as caught:
        typed(option)
    assert "\n" not in str(caught.value)


def test_what_is_no_option():
    with pytest.raises(ConfigError, match="'space' of --cfg-options is not KEY=VALUE"):
        typed("data_root=/data/with", "space")
    with pytest.raises(ConfigError, match="not KEY=VALUE"):
        typed("=1")


def test_last_one_wins_over_several_uses():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=OptionsAction)
    found = parser.parse_args(["--cfg-options", "a=1", "b=2", "--cfg-options", "a=3"]).cfg_options
    assert read_options(found, {}) == {"a": 3, "b": 2}


def test_a_root_with_everything_reaches_the_data_sets(tmp_path):
    root = write_coco(tmp_path / "with space, comma, [and] (brackets)")
    options = argparse.Namespace()
    OptionsAction(["--cfg-options"], "options")(None, options, [f"data_root={root}", "classes=auto"], "--cfg-options")
    cfg = load_config(write_config(tmp_path), options.options)
    assert cfg.classes == ("cat", "dog", "zebra")
    assert [dataset.data_root for _, dataset in find_datasets(cfg, "train")] == [f"{root}/"]
    assert cfg.val_evaluator.ann_file == f"{root}/annotations/instances_val2017.json"
