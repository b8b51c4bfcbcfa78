"""Loading a config: sentences for unreadable ones, and the completions."""

import re

import pytest
import torch
from coco_folder import NAMES, edited, write_coco, write_config
from conftest import lines_logged_by
from mmdet.registry import MODELS
from mmengine.config import Config

import localvit_det  # noqa: F401
from localvit_det.config import load_config, options, set_data_root
from localvit_det.config.utils import find_datasets
from localvit_det.errors import ConfigError, DataError
from localvit_det.preflight.components import check_backbone

SHUFFLE = "model = dict(backbone=dict(_delete_=True, type='ShuffleTransformer', arch='{}'{}))"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("model = dict(", "was never closed"),
        ("_base_ = './nothing.py'", "nothing"),
        ("x = undefined_name", "undefined_name"),
        ("custom_imports = dict(imports=['no_such_package_here'])", "no_such_package_here"),
    ],
)
def test_unreadable_config_is_one_sentence(tmp_path, body, words):
    path = tmp_path / "bad.py"
    path.write_text(body)
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_config_offers_the_nearest(tmp_path):
    (tmp_path / "mask_rcnn_shuffle_t_coco.py").touch()
    with pytest.raises(ConfigError, match="did you mean 'mask_rcnn_shuffle_t_coco"):
        load_config(tmp_path / "mask_rcnn_shufle_t_coco.py")
    with pytest.raises(ConfigError, match=r"does not exist, nor does the folder .*nowhere"):
        load_config(tmp_path / "nowhere/config.py")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optim_wraper.optimizer.lr": 1}, "optim_wraper.optimizer.lr .*did you mean 'optim_wrapper'"),
        ({"clases": "auto"}, r"sets clases, which nothing reads \(did you mean 'classes'\?\)"),
        ({"max_epochs": 3}, r"^The option max_epochs sets max_epochs, which nothing reads: set epochs=3\.$"),
        ({"learning_rate": 0.5}, r"set lr=0.5\.$"),
        ({"optimizer.lr": 0.5}, r"set optim_wrapper.optimizer.lr=0.5\.$"),
        ({"batch-size": 7}, r"set batch=7\.$"),
        ({"num_workers": 0}, r"set workers=0\.$"),
        ({"seed": 1}, r"set randomness.seed=1\.$"),
        ({"class_names": "auto"}, r"set classes=auto\.$"),
        ({"device": "cpu"}, "give --device cpu"),
        ({"data.samples_per_gpu": 2}, "write it into the config if code of yours reads it"),
        ({"train_pipeline.99.type": "x"}, "do not fit"),
    ],
)
def test_wrong_options(tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        load_config(write_config(tmp_path), options)


def test_work_dir(tmp_path):
    """What its training has left there, without how that was started; else what its newest checkpoint has."""
    pretrained = "init_cfg=dict(type='Pretrained', checkpoint='a.pth')"
    (tmp_path / "kept.py").write_text(f"model = dict(type='RetinaNet', {pretrained})\nload_from = 'b.pth'\nown = 1\n")
    cfg = load_config(tmp_path)
    assert (cfg.model.type, cfg.model.init_cfg, cfg.own, "load_from" in cfg) == ("RetinaNet", None, 1, False)
    (tmp_path / "kept.py").unlink()
    for epoch, model in ((1, "FCOS"), (2, "ATSS")):
        meta = {"epoch": epoch, "iter": epoch, "cfg": f"model = dict(type='{model}')"}
        torch.save({"state_dict": {}, "meta": meta}, tmp_path / f"epoch_{epoch}.pth")
    assert load_config(tmp_path).model.type == "ATSS"


def test_known_names_need_not_be_in_the_config(tmp_path):
    options = {"randomness.seed": 1, "find_unused_parameters": True, "non_finite.patience": 3, "runner_type": "Runner"}
    cfg = load_config(write_config(tmp_path), options)
    assert (cfg.randomness.seed, cfg.non_finite.patience) == (1, 3)


def test_names_of_loops_and_annotations_at_the_top_level(tmp_path):
    """A config is a Python program: what its statements assign without a literal value counts, too."""
    path = write_config(tmp_path, "for width in (1, 2):\n    pass\nwidth += 1\nwidth: int\nresult: int = width")
    assert load_config(path).width == 3
    path = tmp_path / "own.py"
    path.write_text(f"_base_ = 'localvit_det::{PARENT}.py'\nfor batch_size in (1, 2):\n    pass\n")
    with pytest.raises(ConfigError, match="sets batch_size, which nothing reads"):
        load_config(path)


def test_names_that_only_the_config_file_uses_are_told(tmp_path, monkeypatch):
    lines = lines_logged_by(monkeypatch, options)
    path = write_config(tmp_path, "max_epochs = 12\ntrain_cfg = dict(by_epoch=True, max_epochs=max_epochs)")
    assert load_config(path, {"max_epochs": 3, "train_cfg.val_interval": 3}).train_cfg.max_epochs == 12
    assert lines == [
        "The option max_epochs sets max_epochs, which only the config's own file uses: what was made of it there stays "
        "as it was; set epochs=3."
    ]


def test_all_mistakes_of_the_options_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(write_config(tmp_path), {"num_epochs": 3, "batch_size": 4, "lr0": 1e-4, "imgscale": 800})
    sentences = [str(error).partition(": ")[2] for error in (caught.value, *caught.value.others)]
    assert sentences == ["set epochs=3.", "set batch=4.", "set lr=0.0001.", "set imgsz=800."]


PARENT = "mask_rcnn_shuffle_nano_shapes"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("max_epochs = 50", [r"sets max_epochs, which nothing reads: set train_cfg.max_epochs=50\.$"]),
        ("batch_size = 4\nlr = 0.1", ["train_dataloader.batch_size=4", "optim_wrapper.optimizer.lr=0.1"]),
        ("num_classes = 5", ["sets num_classes, .*classes=auto"]),
        ("train_pipeline = []", ["sets train_pipeline, which nothing reads: set train_dataloader.dataset.pipeline"]),
        ("test_pipeline = [dict(type='A')]", ["set val_dataloader.dataset.pipeline"]),
        ("channels = 128", ["sets channels, .*its parent has used its own value already"]),
        ("optim_wraper = dict()", [r"sets optim_wraper, which nothing reads \(did you mean 'optim_wrapper'\?\)"]),
    ],
)
@pytest.mark.parametrize("in_parent", [False, True])
def test_names_in_a_file_that_nothing_reads(tmp_path, body, words, in_parent):
    """Of the file that is run, and of a user's own parent of it."""
    path = tmp_path / "own.py"
    path.write_text(f"_base_ = 'localvit_det::{PARENT}.py'\n{body}\n")
    if in_parent:
        (tmp_path / "child.py").write_text("_base_ = 'own.py'\n")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "child.py" if in_parent else path)
    found = [str(error) for error in (caught.value, *caught.value.others)]
    assert len(found) == len(words)
    for sentence, pattern in zip(found, words, strict=True):
        assert re.search(pattern, sentence), sentence
        assert str(path) in sentence


def test_names_that_nothing_reads_do_not_stop_inference(tmp_path, monkeypatch):
    lines = lines_logged_by(monkeypatch, options)
    path = tmp_path / "own.py"
    path.write_text(f"_base_ = 'localvit_det::{PARENT}.py'\nbatch_size = 4\nchannels = 128\n")
    load_config(path, data=False)
    assert [line.partition(", which nothing reads")[0] for line in lines] == [
        f"The config {path} sets {name}" for name in ("batch_size", "channels")
    ]
    with pytest.raises(ConfigError, match="sets clases"):  # what somebody asks for and does not get
        load_config(path, {"clases": "auto"}, data=False)


@pytest.mark.parametrize("value", ["{'a': 1, 'b': [dict(type='B')]}", "dict(b=[dict(type='B')])", "dict()"])
def test_the_value_of_a_parent_once_more(tmp_path, monkeypatch, value):
    """As `dataset_type` and `test_pipeline` stand in MMDetection's own configs: nothing that differs is lost."""
    lines = lines_logged_by(monkeypatch, options)
    (tmp_path / "parent.py").write_text("test_pipeline = dict(a=1, b=[dict(type='B')])\nx = test_pipeline\nlr = 0.1\n")
    path = tmp_path / "own.py"
    path.write_text(f"_base_ = ['parent.py']\ntest_pipeline = {value}\nlr = 0.1\n")
    load_config(path)
    assert lines == []
    path.write_text(f"_base_ = ['parent.py']\ntest_pipeline = {value}\ntest_pipeline['a'] = 2\nlr = 0.2\n")
    with pytest.raises(ConfigError, match=r"lr, which nothing reads: set optim_wrapper\.optimizer\.lr=0\.2"):
        load_config(path)


@pytest.mark.parametrize(
    "body",
    [
        "max_epochs = 5\ntrain_cfg = dict(max_epochs=max_epochs)",
        "_mine = 3",
        "data_root = '/data/mine'",
        "my_own_setting = 3",  # that code of the user's may read: a warning
    ],
)
def test_names_in_a_file_that_are_used(tmp_path, body):
    path = tmp_path / "own.py"
    path.write_text(f"_base_ = 'localvit_det::{PARENT}.py'\n{body}\n")
    load_config(path)


def test_name_of_a_parent_that_its_child_uses(tmp_path):
    (tmp_path / "parent.py").write_text(f"_base_ = 'localvit_det::{PARENT}.py'\nmax_epochs = 5\n")
    (tmp_path / "child.py").write_text("_base_ = './parent.py'\ntrain_cfg = dict(max_epochs={{_base_.max_epochs}})\n")
    assert load_config(tmp_path / "child.py").train_cfg.max_epochs == 5


# ---------------------------------------------------------------------------------------------- data root


@pytest.mark.parametrize("root", ["/data/mine", "/data/mine/"])
def test_data_root_moves_every_path(tmp_path, root):
    cfg = load_config(write_config(tmp_path), {"data_root": root})
    assert cfg.data_root == "/data/mine/"
    for split in ("train", "val", "test"):
        assert [d.data_root for _, d in find_datasets(cfg, split)] == ["/data/mine/"]
    assert cfg.val_evaluator.ann_file == "/data/mine/annotations/instances_val2017.json"
    assert cfg.test_evaluator.ann_file == cfg.val_evaluator.ann_file
    assert "data/coco" not in str(cfg.val_dataloader)


def test_data_root_below_the_old_one_is_moved_once(tmp_path):
    cfg = load_config(write_config(tmp_path), {"data_root": "data/coco/part"})
    assert cfg.val_evaluator.ann_file == "data/coco/part/annotations/instances_val2017.json"
    assert cfg.test_evaluator.ann_file == cfg.val_evaluator.ann_file


def test_data_root_reaches_through_wrappers_and_spares_others():
    def leaf(root):
        return {"type": "CocoDataset", "data_root": root}

    concat = {"type": "ConcatDataset", "datasets": [leaf("data/coco"), leaf("data/other/"), leaf("data/coco2/")]}
    repeat = {"type": "RepeatDataset", "dataset": {"type": "MultiImageMixDataset", "dataset": concat}}
    cfg = Config(
        {
            "data_root": "data/coco/",
            "train_dataloader": {"dataset": repeat},
            "val_evaluator": [{"ann_file": "data/coco/a.json"}, {"ann_file": "data/cocoa.json"}],
            "load_from": "data/coco/start.pth",
        }
    )
    set_data_root(cfg, "new", cfg.data_root)
    assert [d.data_root for _, d in find_datasets(cfg, "train")] == ["new/", "data/other/", "data/coco2/"]
    assert [e["ann_file"] for e in cfg.val_evaluator] == ["new/a.json", "data/cocoa.json"]
    assert cfg.load_from == "data/coco/start.pth"


def test_data_root_option_wins_only_where_nothing_else_was_said(tmp_path):
    options = {"data_root": "/a", "train_dataloader.dataset.data_root": "/b"}
    cfg = load_config(write_config(tmp_path), options)
    assert cfg.train_dataloader.dataset.data_root == "/b"
    assert cfg.val_dataloader.dataset.data_root == "/a/"


ELSEWHERE = """
data_root = 'data/plants/'
train_dataloader = dict(dataset=dict(type='CocoDataset', data_root=data_root, ann_file='a.json'))
val_dataloader = dict(dataset=dict(type='CocoDataset', data_root=data_root, ann_file='b.json'))
val_evaluator = dict(type='CocoMetric', ann_file=data_root + 'b.json')
"""


@pytest.mark.parametrize("levels", [1, 2])
def test_data_root_of_a_file_moves_its_parents_datasets(levels, tmp_path):
    """Wherever these are; an option moves them further."""
    (tmp_path / "base.py").write_text(ELSEWHERE)
    (tmp_path / "own.py").write_text("_base_ = './base.py'\ndata_root = '/data/mine'\n")
    (tmp_path / "child.py").write_text("_base_ = './own.py'\nclasses = ('leaf',)\n")
    path = tmp_path / ("own.py" if levels == 1 else "child.py")
    for given, root in (({}, "/data/mine/"), ({"data_root": "/data/other"}, "/data/other/")):
        cfg = load_config(path, given)
        assert [d.data_root for split in ("train", "val") for _, d in find_datasets(cfg, split)] == [root, root]
        assert (cfg.data_root, cfg.val_evaluator.ann_file) == (root, f"{root}b.json")


def test_root_of_a_dataset_by_hand_stays(tmp_path):
    """Also where the parent's data_root is left over; an option moves it then."""
    (tmp_path / "base.py").write_text(ELSEWHERE)
    by_hand = "dict(dataset=dict(data_root='mine'))"
    text = f"_base_ = './base.py'\ntrain_dataloader = {by_hand}\nval_dataloader = {by_hand}\n"
    (tmp_path / "own.py").write_text(text)
    for given, root in (({}, "mine"), ({"data_root": "/data/other"}, "/data/other/")):
        cfg = load_config(tmp_path / "own.py", given)
        assert [d.data_root for split in ("train", "val") for _, d in find_datasets(cfg, split)] == [root, root]


def test_data_root_that_moves_nothing(tmp_path):
    text = ELSEWHERE.replace("data_root=data_root, ann_file='b", "data_root='x', ann_file='b")
    (tmp_path / "own.py").write_text(text.replace("data_root=data_root", "data_root='y'").replace("data_root + ", ""))
    with pytest.raises(ConfigError, match=r"data_root=/z has no effect: .* datasets have \['x', 'y'\]"):
        load_config(tmp_path / "own.py", {"data_root": "/z"})


def test_data_root_without_a_name_in_the_config():
    cfg = Config({"val_dataloader": {"dataset": {"data_root": "x/"}}, "val_evaluator": {"ann_file": "x/a.json"}})
    set_data_root(cfg, "y", None)
    assert cfg.val_evaluator.ann_file == "y/a.json"
    with pytest.raises(ConfigError, match="data_root=y has no effect"):
        set_data_root(Config({}), "y", None)


# ---------------------------------------------------------------------------------------------- neck


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (SHUFFLE.format("tiny", ""), [96, 192, 384, 768]),
        (SHUFFLE.format("base", ""), [128, 256, 512, 1024]),
        (SHUFFLE.format("tiny", ", out_indices=(1, 2, 3)"), [192, 384, 768]),
        ("model = dict(backbone=dict(_delete_=True, type='mmdet.SwinTransformer', embed_dims=128))", None),
        ("model = dict(backbone=dict(_delete_=True, type='PyramidVisionTransformer'))", [64, 128, 320, 512]),
        ("model = dict(backbone=dict(_delete_=True, type='TwinsPCPVT'))", [64, 128, 320, 512]),
        ("model = dict(backbone=dict(depth=18))", [64, 128, 256, 512]),
        ("", [256, 512, 1024, 2048]),
    ],
)
@pytest.mark.parametrize("model", ["mask-rcnn_r50_fpn", "retinanet_r50_fpn", "cascade-mask-rcnn_r50_fpn"])
def test_neck_follows_the_backbone(tmp_path, body, expected, model):
    cfg = load_config(write_config(tmp_path, body, model))
    assert list(cfg.model.neck.in_channels) == (expected or [128, 256, 512, 1024])


@pytest.mark.parametrize("width", [32, 64])  # b0, and all others
def test_neck_follows_pvt_v2(tmp_path, width):
    body = f"model = dict(backbone=dict(_delete_=True, type='PyramidVisionTransformerV2', embed_dims={width}))"
    cfg = load_config(write_config(tmp_path, body))
    expected = [width, 2 * width, 5 * width, 8 * width]
    assert cfg.model.neck.in_channels == expected
    small = MODELS.build({**cfg.model.backbone, "num_layers": (1, 1, 1, 1)})  # depth changes no channels
    assert [m.shape[1] for m in small(torch.zeros(1, 3, 32, 32))] == expected
    check_backbone(cfg)


def test_neck_follows_a_backbone_from_the_options(tmp_path):
    path = write_config(tmp_path, SHUFFLE.format("tiny", ""))
    assert load_config(path, {"model.backbone.arch": "base"}).model.neck.in_channels == [128, 256, 512, 1024]


def test_neck_of_an_unknown_backbone_is_left_alone(tmp_path):
    path = write_config(tmp_path, "model = dict(backbone=dict(_delete_=True, type='HRNet'))")
    assert load_config(path).model.neck.in_channels == [256, 512, 1024, 2048]


# ---------------------------------------------------------------------------------------------- classes


def num_classes(cfg):
    heads = [*cfg.model.get("roi_head", {}).values(), cfg.model.get("bbox_head")]
    heads = [head for entry in heads for head in (entry if isinstance(entry, list) else [entry])]
    return [head["num_classes"] for head in heads if isinstance(head, dict) and "num_classes" in head]


@pytest.mark.parametrize(
    ("model", "heads"), [("mask-rcnn_r50_fpn", 2), ("cascade-mask-rcnn_r50_fpn", 4), ("retinanet_r50_fpn", 1)]
)
def test_auto_classes_need_only_the_root(tmp_path, model, heads):
    root = write_coco(tmp_path / "mine")
    cfg = load_config(write_config(tmp_path, model=model), {"data_root": str(root), "classes": "auto"})
    assert cfg.classes == NAMES
    assert num_classes(cfg) == [3] * heads
    for split in ("train", "val", "test"):
        assert [d.metainfo.classes for _, d in find_datasets(cfg, split)] == [NAMES]


def test_auto_classes_come_in_the_order_of_the_file(tmp_path):
    root = write_coco(tmp_path, edited(lambda c: c["categories"].reverse()))
    cfg = load_config(write_config(tmp_path, "classes = 'auto'"), {"data_root": str(root)})
    assert cfg.classes == NAMES[::-1]


def test_auto_classes_come_from_the_files_that_are_there(tmp_path):
    root = write_coco(tmp_path / "mine")
    options = {"data_root": str(root), "classes": "auto"}
    (root / "annotations/instances_train2017.json").rename(root / "annotations/train.json")
    cfg = load_config(write_config(tmp_path), options)
    assert (cfg.classes, cfg.train_dataloader.dataset.ann_file) == (NAMES, "annotations/train.json")
    (root / "annotations/train.json").unlink()
    cfg = load_config(write_config(tmp_path), options)
    assert (cfg.classes, cfg.val_dataloader.dataset.ann_file) == (NAMES, "annotations/instances_val2017.json")
    (root / "annotations/instances_val2017.json").unlink()
    with pytest.raises(DataError, match="holds images and no labels"):
        load_config(write_config(tmp_path), options)


@pytest.mark.parametrize(("value", "expected"), [(["cat", "dog"], ("cat", "dog")), ("cat", ("cat",))])
def test_classes_by_name(tmp_path, value, expected):
    cfg = load_config(write_config(tmp_path), {"classes": value})
    assert cfg.train_dataloader.dataset.metainfo.classes == expected
    assert num_classes(cfg) == [len(expected)] * 2


def test_heads_that_do_not_count_objects_are_left_alone(tmp_path):
    body = "model = dict(rpn_head=dict(num_classes=1), roi_head=dict(semantic_head=dict(num_classes=183)))"
    cfg = load_config(write_config(tmp_path, body), {"classes": ["cat"]})
    assert (cfg.model.rpn_head.num_classes, cfg.model.roi_head.semantic_head.num_classes) == (1, 183)
