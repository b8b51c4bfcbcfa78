"""Heads of a checkpoint follow the names of the classes."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import BaseLoop
from mmengine.structures import InstanceData
from small_detectors import DETECTORS, model_of
from torch import nn

from localvit_det.checkpoint.loading import label
from localvit_det.checkpoint.matching import prepare
from localvit_det.config import load_config
from localvit_det.config.model import heads_with_classes
from localvit_det.engine.load_policy import LoadPolicyHook, Rows, class_rows, exchange_rows
from localvit_det.errors import CheckpointError

SAVED = ("cat", "dog", "zebra", "bus", "cup")
PERMUTED = ("cup", "zebra", "cat", "bus", "dog")


def with_classes(model: dict, count: int) -> dict:
    model = copy.deepcopy(model)
    for _, head, key in heads_with_classes({"model": model}):
        head[key] = count
        if key == "num_things_classes":
            head["loss_cls"]["class_weight"] = [1.0] * count + [0.1]
    return model


def built(model: dict, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = MODELS.build(model)
    for name, parameter in model.named_parameters():  # heads begin with zeros and equal biases
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.03) if parameter.ndim == 1 else None
        assert name
    return model


def loss_of(model: nn.Module, classes: tuple[str, ...]) -> dict[str, float]:
    """The losses of two images with an object of each class; `classes` is the order of the labels."""
    torch.manual_seed(3)
    images, samples = [], []
    for index in range(2):
        images.append((torch.rand(3, 96, 96) * 255).byte())
        masks = np.zeros((5, 96, 96), np.uint8)
        boxes = torch.tensor([[9.0 * n + index, 8.0 * n, 9.0 * n + 40, 8.0 * n + 50] for n in range(5)])
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        labels = torch.tensor([classes.index(name) for name in SAVED])
        sizes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), (96, 96))
        sample = DetDataSample(metainfo={**sizes, "scale_factor": (1.0, 1.0), "img_id": index})
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels, masks=BitmapMasks(masks, 96, 96))
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0), masks=[])
        samples.append(sample)
    data = model.data_preprocessor({"inputs": images, "data_samples": samples}, True)
    torch.manual_seed(4)
    np.random.seed(4)
    with torch.no_grad():
        losses = model(**data, mode="loss")
    return {name: float(sum(torch.as_tensor(v).sum() for v in (value if isinstance(value, list) else [value])))
            for name, value in losses.items()}  # fmt: skip


@pytest.mark.parametrize("kind", ["mask_rcnn", "cascade", "retinanet"])
def test_the_first_loss_is_that_of_the_original_order(kind):
    config = with_classes(DETECTORS[kind](), 5)
    saved = built(config, 0).train()
    expected = loss_of(saved, SAVED)
    other = built(config, 1).train()
    weights = dict(saved.state_dict())
    other.load_state_dict(weights)
    assert loss_of(other, PERMUTED) != pytest.approx(expected, rel=1e-4)  # row by row
    result = exchange_rows(weights, other, class_rows(other, config), SAVED, PERMUTED)
    assert (result.kept, result.new, result.unused, result.anew) == (list(PERMUTED), [], [], [])
    assert "rpn" not in "".join(result.tensors)
    other.load_state_dict(weights)
    assert loss_of(other, PERMUTED) == pytest.approx(expected, rel=1e-5)


# Tensors that depend on the classes, by the ends of their names; one of each kind.
LAYOUTS = {
    "mask_rcnn_shuffle_nano_shapes": {
        "fc_cls.weight": Rows(1, 1, 1),
        "fc_reg.weight": Rows(1, 4, 0),
        "conv_logits.bias": Rows(1, 1, 0),
    },
    "cascade_mask_rcnn_dwnet_t_3x_coco": {
        f"{part}.{stage}.{end}": rows
        for stage in range(3)
        for part, end, rows in (
            ("bbox_head", "fc_cls.bias", Rows(1, 1, 1)),
            ("bbox_head", "fc_reg.bias", Rows(1, 4, 0)),
            ("mask_head", "conv_logits.weight", Rows(1, 1, 0)),
        )
    },
    "retinanet_shuffle_t_coco": {"retina_cls.weight": Rows(9, 1, 0)},
    "rtmdet_ins_shuffle_t_coco": {f"rtm_cls.{level}.weight": Rows(1, 1, 0) for level in range(3)},
    "dino_shuffle_t_coco": {
        **{f"cls_branches.{layer}.bias": Rows(1, 1, 0) for layer in range(7)},
        "label_embedding.weight": Rows(1, 1, 0),
    },
    "mask2former_shuffle_t_coco": {"cls_embed.weight": Rows(1, 1, 1)},
    "sem_fpn_shuffle_nano_shapes": {"conv_seg.weight": Rows(1, 1, 0)},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_depends_on_the_classes(name):
    cfg = load_config(name, data=False)
    init_default_scope(cfg.get("default_scope") or "mmdet")
    with torch.device("meta"), torch.no_grad():
        model = MODELS.build(copy.deepcopy(cfg.model))
    rows = class_rows(model, cfg.model)
    init_default_scope("mmdet")
    assert None not in rows.values()
    for end, expected in LAYOUTS[name].items():
        assert {layout for key, layout in rows.items() if key.endswith(end)} == {expected}, end
    kinds = {end.rpartition(".")[0] for end in LAYOUTS[name]}
    assert all(key.rpartition(".")[0].endswith(tuple(kinds)) for key in rows)  # and nothing else


class Head(nn.Module):
    num_classes, num_base_priors = 2, 3

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.conv = nn.Linear(1, rows, bias=False)
        nn.init.constant_(self.conv.weight, -1)


@pytest.mark.parametrize(
    ("rows", "old", "expected"),
    [
        # x is a row of the model. Two classes of the file, a and b; the model has b and c.
        (Rows(1, 1, 1), "a b -", "b x -"),
        (Rows(3, 1, 0), "a1 b1 a2 b2 a3 b3", "b1 x b2 x b3 x"),
        (Rows(3, 1, 1), "a1 b1 -1 a2 b2 -2 a3 b3 -3", "b1 x -1 b2 x -2 b3 x -3"),
        (Rows(1, 4, 0), "a1 a2 a3 a4 b1 b2 b3 b4", "b1 b2 b3 b4 x x x x"),
        (None, "a b", "x x"),
    ],
)
def test_rows(rows, old, expected):
    words = old.split()
    model = Head(len(words))
    weights = {"conv.weight": torch.arange(len(words), dtype=torch.float)[:, None]}
    result = exchange_rows(weights, model, {"conv.weight": rows}, ("a", "b"), ("b", "c"))
    assert [words[int(i)] if i >= 0 else "x" for i in weights["conv.weight"][:, 0]] == expected.split()
    assert (result.kept, result.new, result.unused) == (["b"], ["c"], ["a"])


def load_by_hook(source, model, config, meta, metainfo, policy, prefix="") -> tuple[dict, list[str]]:
    """Let the hook prepare the checkpoint of a training as a runner does; the weights, and what is logged."""
    lines: list[str] = []
    weights = label({prefix + name: tensor for name, tensor in source.state_dict().items()}, source="x.pth")
    checkpoint = {"state_dict": weights, "meta": meta, "message_hub": {}}
    runner = SimpleNamespace(
        _resume=False,
        _train_loop=BaseLoop.__new__(type("Loop", (BaseLoop,), {"run": None, "__abstractmethods__": frozenset()})),
        train_dataloader=SimpleNamespace(dataset=SimpleNamespace(metainfo=metainfo)),
        model=model,
        cfg=Config({"model": config, "load_policy": policy}),
        logger=SimpleNamespace(info=lines.append, warning=lines.append),
    )
    LoadPolicyHook().after_load_checkpoint(runner, checkpoint)
    return checkpoint["state_dict"], lines


class TestLoading:
    @pytest.fixture
    def load(self):
        """Loads a checkpoint of three classes into a model of others; the model before and after, and the lines."""
        config = model_of("mask_rcnn_shuffle_nano_shapes")

        def run(saved: tuple[str, ...] | None, wanted: tuple[str, ...], policy: str = "finetune", old=False, prefix=""):
            source = built(with_classes(config, 3), 0)
            own = with_classes(config, len(wanted))
            model = built(own, 1)
            before = copy.deepcopy(model.state_dict())
            key = "CLASSES" if old else "dataset_meta"
            meta = {} if saved is None else {key: saved if old else {"classes": saved}}
            weights, lines = load_by_hook(source, model, own, meta, {"classes": wanted}, policy, prefix)
            state, report = prepare(model, weights, policy)
            model.load_state_dict(state, strict=False)
            return source.state_dict(), before, model.state_dict(), lines, report

        return run

    def test_another_number_of_classes_keeps_those_of_the_same_names(self, load):
        source, before, after, lines, report = load(("cat", "dog", "bus"), ("bus", "cup", "cat", "tree"))
        name = "roi_head.bbox_head.fc_cls.weight"
        expected = torch.stack([source[name][2], before[name][1], source[name][0], before[name][3], source[name][3]])
        assert torch.equal(after[name], expected)
        name = "roi_head.bbox_head.fc_reg.bias"
        expected = torch.cat([source[name][8:], before[name][4:8], source[name][:4], before[name][12:]])
        assert torch.equal(after[name], expected)
        assert not report.new
        [line] = lines
        assert "classes that keep their rows: 2 (bus, cat)" in line
        assert "classes that start as initialised: 2 (cup, tree)" in line
        assert "classes of the checkpoint alone: 1 (dog)" in line

    def test_heads_of_things_and_stuff_start_new(self):
        """Their rows are in orders of their own; left alone they would be taken for other classes."""
        config = model_of("panoptic_fpn_shuffle_nano_shapes")
        source, model = built(config, 0), built(config, 1)
        before = copy.deepcopy(model.state_dict())
        classes = {"classes": ("cat", "dog", "bus", "sky"), "thing_classes": ("cat", "dog", "bus")}
        meta = {"dataset_meta": {"classes": ("dog", "cat", "bus", "sky")}}
        loaded, lines = load_by_hook(source, model, config, meta, classes, "finetune")
        for name in ("roi_head.bbox_head.fc_cls.weight", "semantic_head.conv_logits.weight"):
            assert torch.equal(loaded[name], before[name])
            assert not torch.equal(loaded[name], source.state_dict()[name])
        assert torch.equal(loaded["rpn_head.rpn_cls.weight"], source.state_dict()["rpn_head.rpn_cls.weight"])
        assert "rows of panoptic heads are not mapped by name: tensors that start as initialised: 8" in lines[0]

    def test_other_names_of_the_same_number_start_new(self, load):
        source, before, after, lines, _ = load(("cat", "dog", "bus"), ("a", "b", "c"))
        heads = [name for name in after if ".fc_cls." in name or ".fc_reg." in name or ".conv_logits." in name]
        assert len(heads) == 6
        assert all(torch.equal(after[name], before[name]) for name in heads)
        assert torch.equal(after["rpn_head.rpn_cls.weight"], source["rpn_head.rpn_cls.weight"])
        assert "classes that keep their rows: 0; classes that start as initialised: 3 (a, b, c)" in lines[0]

    def test_where_everything_has_to_fit(self, load):
        source, _, after, _, _ = load(("cat", "dog", "bus"), ("bus", "cat", "dog"), "strict")
        name = "roi_head.mask_head.conv_logits.weight"
        assert torch.equal(after[name], source[name][[2, 0, 1]])
        with pytest.raises(
            CheckpointError, match=r"x.pth was trained on the classes cat, dog, bus, and the data have a"
        ):
            load(("cat", "dog", "bus"), ("a", "b", "bus"), "strict")

    @pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model._orig_mod."])
    def test_names_that_wrappers_changed(self, load, prefix):
        source, _, after, _, _ = load(("cat", "dog", "bus"), ("bus", "cat", "dog"), prefix=prefix)
        name = "roi_head.bbox_head.fc_cls.weight"
        assert torch.equal(after[name], source[name][[2, 0, 1, 3]])

    def test_files_of_mmdetection_2(self, load):
        source, _, after, _, _ = load(("cat", "dog", "bus"), ("dog", "cat", "bus"), old=True)
        name = "roi_head.bbox_head.fc_cls.bias"
        assert torch.equal(after[name], source[name][[1, 0, 2, 3]])

    def test_without_names_the_order_is_said(self, load):
        source, _, after, lines, _ = load(None, ("a", "b", "c"))
        assert torch.equal(after["roi_head.bbox_head.fc_cls.bias"], source["roi_head.bbox_head.fc_cls.bias"])
        assert "x.pth does not name its classes: the rows of its heads are taken for a, b, c, in this order" in lines[0]

    def test_the_same_classes_say_nothing(self, load):
        source, _, after, lines, _ = load(("a", "b", "c"), ("a", "b", "c"))
        assert all(torch.equal(after[name], source[name]) for name in source)
        assert not lines
