"""Masks of several views of an image are turned back and merged."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.structures import InstanceData
from numbered_gpu import numbered_gpu
from torch import nn

from localvit_det.errors import ConfigError
from localvit_det.evaluation.tta import MaskTTAModel, augmented, use_tta, vote

HEIGHT, WIDTH = 8, 12


def view(flip: str | None, *objects: tuple[list[int], float, int], masks: bool = True) -> DetDataSample:
    """What a detector finds in a view; objects of box in the image, score and label, each with its box as mask."""
    sample = DetDataSample(metainfo={"ori_shape": (HEIGHT, WIDTH), "flip": flip is not None, "flip_direction": flip})
    boxes = torch.tensor([box for box, _, _ in objects], dtype=torch.float).reshape(-1, 4)
    canvas = torch.zeros(len(objects), HEIGHT, WIDTH, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(canvas, boxes.int(), strict=True):
        mask[y1:y2, x1:x2] = True
    if flip in ("horizontal", "diagonal"):
        boxes[:, [0, 2]], canvas = WIDTH - boxes[:, [2, 0]], canvas.flip(2)
    if flip in ("vertical", "diagonal"):
        boxes[:, [1, 3]], canvas = HEIGHT - boxes[:, [3, 1]], canvas.flip(1)
    sample.pred_instances = InstanceData(
        bboxes=boxes,
        scores=torch.tensor([score for _, score, _ in objects]),
        labels=torch.tensor([label for _, _, label in objects], dtype=torch.long),
    )
    if masks:
        sample.pred_instances.masks = canvas
    return sample


class Detector(nn.Module):
    def test_step(self, data):
        raise NotImplementedError


def merge(*views: DetDataSample) -> InstanceData:
    settings = ConfigDict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100)
    return MaskTTAModel(tta_cfg=settings, module=Detector()).merge_preds([list(views)])[0].pred_instances


@pytest.mark.parametrize("flip", ["horizontal", "vertical", "diagonal"])
def test_masks_lie_in_their_boxes(flip):
    found = merge(view(None, ([1, 1, 5, 4], 0.9, 0)), view(flip, ([6, 2, 12, 8], 0.8, 0), ([1, 1, 5, 4], 0.7, 1)))
    assert found.bboxes.tolist() == [[1, 1, 5, 4], [6, 2, 12, 8], [1, 1, 5, 4]]
    assert found.labels.tolist() == [0, 0, 1]
    for mask, (x1, y1, x2, y2) in zip(found.masks, found.bboxes.int(), strict=True):
        assert mask.sum() == (x2 - x1) * (y2 - y1)
        assert mask[y1:y2, x1:x2].all()


def test_views_are_merged_on_a_gpu():
    """Without one; votes wait for who has one, twice for any number of results."""
    objects = ([1, 1, 5, 4], 0.9, 0), ([6, 2, 12, 8], 0.8, 0)
    expected = merge(view(None, *objects), view("horizontal", *objects))
    views = view(None, *objects), view("horizontal", *objects)
    with numbered_gpu() as gpu:
        views = [one.to("cuda") for one in views]
        gpu.waits.clear()
        found = merge(*views)
        waits = {place[1:]: count for place, count in gpu.waits.items() if place[0] == "localvit_det"}
        assert torch.equal(found.masks.cpu(), expected.masks)
    assert waits.pop(("ops/mmcv_ops.py", "nms", "nms")) == 1
    assert waits == {("evaluation/tta.py", "vote", operator): 1 for operator in ("nonzero", "_to_copy")}


def test_the_views_of_an_object_vote():
    """Two views outvote the best one; another class and an object elsewhere have no voice."""
    narrow, wide = [0, 0, 6, 6], [0, 0, 8, 6]
    found = merge(
        view(None, (narrow, 0.9, 0), (wide, 0.8, 1)),
        view("horizontal", (wide, 0.7, 0), ([8, 0, 12, 6], 0.9, 0)),
        view("vertical", (wide, 0.6, 0)),
    )
    first = (found.bboxes == torch.tensor(narrow)).all(1).nonzero().item()
    assert len(found) == 3
    assert found.masks[first].sum() == 8 * 6
    assert found.masks.dtype is torch.bool


def test_a_sure_view_outvotes_an_unsure_one():
    narrow, wide = [0, 0, 6, 6], [0, 0, 8, 6]
    found = merge(view(None, (narrow, 0.9, 0)), view("horizontal", (wide, 0.3, 0)))
    assert found.masks.sum() == 6 * 6


def test_nothing_found():
    found = merge(view(None), view("horizontal"))
    assert found.masks.shape == (0, HEIGHT, WIDTH)


def test_without_masks():
    assert "masks" not in merge(view(None, ([1, 1, 5, 4], 0.9, 0), masks=False), view("vertical", masks=False))


def test_no_weight_is_no_mask():
    assert not vote(torch.ones(1, 2, 2, dtype=torch.bool), torch.zeros(1, 1)).any()


def test_half_of_the_weight_is_enough():
    masks = torch.tensor([[[1, 0, 0]], [[0, 1, 0]], [[1, 1, 1]]], dtype=torch.bool)
    weights = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.25, 0.0], [0.0, 0.5, 0.25]])
    assert vote(masks, weights)[:, 0].tolist() == [[True, True, False], [True, False, False], [False, True, False]]


LOAD, FLIP = {"type": "LoadImageFromFile"}, {"type": "RandomFlip", "prob": 1.0}
KEYS = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")


def test_views_of_a_pipeline():
    resize = {"type": "Resize", "scale": (100, 60), "keep_ratio": True}
    rest = [{"type": "Pad", "size": (100, 100)}, {"type": "Pad", "size_divisor": 32}, {"type": "PackDetInputs"}]
    pipeline = [LOAD, {"type": "Resize"}, resize, *rest]
    *before, views = augmented(pipeline, "test_dataloader.dataset")
    assert before == [LOAD, {"type": "Resize"}]
    sizes = [{**resize, "scale": scale} for scale in ((75, 45), (100, 60), (125, 75))]
    flips = [{**FLIP, "prob": 0.0}, FLIP]
    packed = {"type": "PackDetInputs", "meta_keys": KEYS}
    assert views == {
        "type": "TestTimeAug",
        "transforms": [sizes, flips, [{"type": "Pad", "size": (125, 125)}], [rest[1]], [packed]],
    }
    assert rest == [{"type": "Pad", "size": (100, 100)}, {"type": "Pad", "size_divisor": 32}, {"type": "PackDetInputs"}]
    own = augmented([resize, {"type": "PackDetInputs", "meta_keys": ("flip", "img_id")}], "x")[0]["transforms"][-1]
    assert own == [{"type": "PackDetInputs", "meta_keys": ("flip", "img_id", "flip_direction")}]
    with pytest.raises(ConfigError, match=r"no Resize with a scale in x.pipeline"):
        augmented([LOAD], "x")


def config(**changes: object) -> Config:
    dataset = {"type": "CocoDataset", "pipeline": [LOAD, {"type": "Resize", "scale": (100, 60)}]}
    model = {"type": "MaskRCNN", "test_cfg": {"rcnn": {"nms": {"type": "nms", "iou_threshold": 0.6}, "max_per_img": 7}}}
    evaluator = {"type": "CocoMetric", "metric": ["bbox", "segm"]}
    return Config({"model": model, "test_dataloader": {"dataset": dataset}, "test_evaluator": evaluator, **changes})


def test_switch_wraps_the_model_and_augments_the_pipeline():
    cfg = config()
    use_tta(cfg)
    assert (cfg.model.type, cfg.model.module.type) == ("MaskTTAModel", "MaskRCNN")
    assert cfg.model.tta_cfg == {"nms": {"type": "nms", "iou_threshold": 0.6}, "max_per_img": 7}
    assert cfg.test_dataloader.dataset.pipeline[-1].type == "TestTimeAug"
    cfg = config(model={"type": "RetinaNet", "test_cfg": {"max_per_img": 9}})
    use_tta(cfg)
    assert cfg.model.tta_cfg == {"nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 9}
    cfg = config(model={"type": "Own"}, tta_model={"type": "mmdet.DetTTAModel", "tta_cfg": {}}, tta_pipeline=[LOAD])
    use_tta(cfg)
    assert cfg.model == {"type": "MaskTTAModel", "tta_cfg": {}, "module": {"type": "Own"}}
    assert cfg.test_dataloader.dataset.pipeline == [LOAD]
    cfg = config(model={"type": "Own"}, tta_model={"type": "OwnTTA"})
    use_tta(cfg)
    assert cfg.model.type == "OwnTTA"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"default_scope": "mmseg"}, "one of mmseg"),
        ({"test_evaluator": {"type": "CocoPanopticMetric"}}, "evaluates with .'CocoPanopticMetric'.: leave it out"),
        ({"test_evaluator": []}, "evaluates with nothing"),
        ({"test_evaluator": {"type": "CocoMetric", "metric": "proposal"}}, r"evaluates \['proposal'\]"),
        ({"test_evaluator": {"type": "CocoMetric", "metric": ["bbox", "proposal"]}}, r"evaluates \['proposal'\]"),
    ],
)
def test_what_views_cannot_be_merged_for(changes, words):
    with pytest.raises(ConfigError, match=words):
        use_tta(config(**changes))
