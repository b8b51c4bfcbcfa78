"""The memory-efficient mask head against MMDetection's: the same masks, loss and gradients, in less memory."""

import numpy as np
import pytest
import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from benchmarks.measure import held_bytes
from localvit_det.heads import MemoryEfficientFCNMaskHead

SIZE, CHANNELS, CLASSES = 64, 16, 5
TRAIN_CFG = ConfigDict(mask_size=28)


class Sampled:
    """What the mask head reads of a sampling result."""

    def __init__(self, boxes, owners, labels):
        self.pos_priors, self.pos_assigned_gt_inds, self.pos_gt_labels = boxes, owners, labels


def make_heads(**changes):
    settings = {
        "num_convs": 1,
        "in_channels": CHANNELS,
        "conv_out_channels": CHANNELS,
        "num_classes": CLASSES,
        "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.5},
        **changes,
    }
    torch.manual_seed(0)
    plain = FCNMaskHead(**settings)
    plain.init_weights()
    efficient = MemoryEfficientFCNMaskHead(**settings)
    efficient.load_state_dict(plain.state_dict())
    return plain, efficient


def make_samples(counts, kind=np.uint8):
    """Sampling results and ground truth of images with so many positive boxes each."""
    results, truths, rng = [], [], np.random.default_rng(1)
    for count in counts:
        masks = np.zeros((3, SIZE, SIZE), dtype=kind)
        for mask, start in zip(masks, (2, 10, 30), strict=True):
            mask[start : start + 25, start : start + 20] = 1
        corner = torch.rand(count, 2) * SIZE * 0.6 - 4  # some hang over the border
        boxes = torch.cat((corner, corner + 6 + torch.rand(count, 2) * 30), dim=1)
        owners, labels = (torch.from_numpy(rng.integers(0, n, count)) for n in (3, CLASSES))
        results.append(Sampled(boxes, owners, labels))
        truths.append(InstanceData(masks=BitmapMasks(masks, SIZE, SIZE)))
    return results, truths


def step(head, x, results, truths, cfg=TRAIN_CFG):
    """Loss, targets, and gradients by name, of the features' as well."""
    x = x.clone().requires_grad_()
    head.zero_grad()
    found = head.loss_and_target(head(x), results, truths, cfg)
    found["loss_mask"]["loss_mask"].sum().backward()
    return (
        found["loss_mask"]["loss_mask"].detach(),
        found["mask_targets"],
        {"x": x.grad} | {name: p.grad for name, p in head.named_parameters()},
    )


@pytest.mark.parametrize("counts", [(40, 33), (3, 0)])
@pytest.mark.parametrize("agnostic", [False, True])
def test_same_loss_and_gradients(counts, agnostic):
    plain, efficient = make_heads(class_agnostic=agnostic)
    results, truths = make_samples(counts)
    x = torch.randn(sum(counts), CHANNELS, 14, 14)
    expected, got = step(plain, x, results, truths), step(efficient, x, results, truths)
    assert efficient(x).shape == x.shape  # features: the efficient way was taken
    torch.testing.assert_close(got[0], expected[0])
    assert torch.equal(got[1], expected[1])
    assert 0 < got[1].mean() < 1
    for name, grad in expected[2].items():
        torch.testing.assert_close(got[2][name], grad, msg=name)


def test_no_boxes_still_reach_all_parameters():
    """DistributedDataParallel waits for the gradient of every parameter."""
    plain, efficient = make_heads()
    results, truths = make_samples((0, 0))
    x = torch.randn(0, CHANNELS, 14, 14)
    expected, got = step(plain, x, results, truths), step(efficient, x, results, truths)
    assert got[0].sum() == expected[0].sum() == 0
    assert all(got[2][name] is not None for name in expected[2])


@pytest.mark.parametrize(
    "changes",
    [
        {"upsample_cfg": {"type": "bilinear", "scale_factor": 2}},
        {"upsample_cfg": {"type": None}},
        {"loss_mask": {"type": "CrossEntropyLoss", "use_mask": True, "class_weight": torch.tensor(2.0)}},
    ],
)
def test_unusual_heads_run_as_they_are(changes):
    plain, efficient = make_heads(**changes)
    results, truths = make_samples((5,))
    x = torch.randn(5, CHANNELS, 14, 14)
    assert torch.equal(efficient(x), plain(x))
    if plain.upsample_method is not None:
        assert torch.equal(step(efficient, x, results, truths)[0], step(plain, x, results, truths)[0])


def test_soft_targets_are_left_to_mmdetection():
    plain, efficient = make_heads()
    results, truths = make_samples((6,), np.float32)
    cfg = ConfigDict(mask_size=28, soft_mask_target=True)
    expected = plain.get_targets(results, truths, cfg)
    assert torch.equal(efficient.get_targets(results, truths, cfg), expected)
    assert len(expected.unique()) > 2


def test_predicts_the_same():
    plain, efficient = make_heads()
    x = torch.randn(4, CHANNELS, 14, 14)
    assert torch.equal(efficient.eval()(x), plain.eval()(x))


def test_keeps_less():
    plain, efficient = make_heads()
    results, truths = make_samples((64,))
    x = torch.randn(64, CHANNELS, 14, 14)

    def held(head):
        return held_bytes(lambda: [head.loss_and_target(head(x), results, truths, TRAIN_CFG)["loss_mask"]["loss_mask"]])

    assert held(efficient) < 0.5 * held(plain)


def test_autocast():
    plain, efficient = make_heads()
    results, truths = make_samples((8,))
    x = torch.randn(8, CHANNELS, 14, 14)
    with torch.autocast("cpu", torch.bfloat16):
        expected, got = step(plain, x, results, truths), step(efficient, x, results, truths)
    torch.testing.assert_close(got[0], expected[0], rtol=1e-2, atol=0)
