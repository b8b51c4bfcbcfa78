"""What tokens see, found out with gradients, is what the networks are built to let them see."""

import runpy

import cv2
import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from mmengine.config import Config

from localvit_det.analysis.networks import (
    Seen,
    draw_seen,
    effective_fields,
    load_backbone,
    random_backbone,
    seen_tokens,
    side_that_holds,
    squares,
)
from localvit_det.errors import ConfigError, DataError

PLACES = ((0.5, 0.5), (0.1, 0.9))
WINDOWS = runpy.run_path(str(REPOSITORY / "docs/draw_windows.py"))["windows_of_tokens"]
SMALL = {"embed_dims": 16, "depths": (2, 2), "num_heads": (2, 2), "drop_path_rate": 0.0}


def seen(size: int = 80, places: tuple = PLACES, **cfg: object) -> list[Seen]:
    backbone = random_backbone({"out_indices": (0, 1), **cfg})
    return seen_tokens(backbone, torch.randn(1, 3, size, size), places)


def test_local_and_dilated_windows():
    found = seen(type="ShuffleTransformer", arch=SMALL, window_size=5)
    assert [one.name for one in found] == [f"stages.{s}.blocks.{b}.mixer" for s in range(2) for b in range(2)]
    for index, one in enumerate(found):
        side = (20, 10)[index // 2]
        numbers = WINDOWS(side, 5, ("local", "dilated")[index % 2])
        assert one.tokens == [(side // 2, side // 2), (side // 10, side * 9 // 10)]
        for (row, column), mask in zip(one.tokens, one.masks, strict=True):
            assert torch.equal(mask, numbers == numbers[row, column])


@pytest.mark.parametrize(
    ("cfg", "count"),
    [
        ({"type": "DWNet", "arch": SMALL, "window_size": 5}, 25),  # a kernel
        ({"type": "IDynamicDWNet", "arch": SMALL, "window_size": 5}, 25),
        ({"type": "DynamicDWNet", "arch": SMALL, "window_size": 5}, 400),  # a kernel of all tokens
        ({"type": "MSGTransformer", "arch": SMALL, "window_size": 5, "shuffle_size": (2, 2)}, 25),
        ({"type": "TwinsPCPVT", "arch": SMALL, "sr_ratios": 4}, 400),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_families(cfg, count):
    first, *_ = seen(places=PLACES[:1], **cfg)
    assert first.masks.shape == (1, 20, 20)
    assert int(first.masks.sum()) == count


def test_networks_of_others():
    swin = {"type": "SwinTransformer", "embed_dims": 12, "depths": (2, 2), "num_heads": (2, 2), "window_size": 5}
    plain, shifted, *_ = seen(places=PLACES[:1], strides=(4, 2), **swin)
    assert (plain.name, shifted.name) == ("stages.0.blocks.0.attn", "stages.0.blocks.1.attn")
    rows, columns = torch.where(plain.masks[0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 14, 10, 14)
    rows, columns = torch.where(shifted.masks[0])
    assert (rows.min(), rows.max()) == (7, 11)
    pvt = {"type": "PyramidVisionTransformer", "embed_dims": 8, "num_layers": [1, 1], "num_heads": [1, 2]}
    rest = {"patch_sizes": [4, 2], "strides": [4, 2], "paddings": [0, 0], "sr_ratios": [4, 2], "mlp_ratios": [2, 2]}
    first, *_ = seen(places=PLACES[:1], num_stages=2, **pvt, **rest)
    assert first.masks.all()
    bottleneck = seen(
        size=96, places=PLACES[:1], type="ResNet", depth=50, num_stages=2, strides=(1, 2), dilations=(1, 1)
    )
    assert int(bottleneck[0].masks.sum()) == 9


def test_network_without_known_blocks():
    class Plain(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            return (x,)

    with pytest.raises(ConfigError, match="Plain has no blocks that are known"):
        seen_tokens(Plain(), torch.randn(1, 3, 32, 32), PLACES)


def test_effective_field():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 4, 3, padding=1))
    backbone = torch.nn.Module()
    backbone.forward = lambda x: (net[0](x), net(x))
    near, far = effective_fields(backbone, torch.randn(8, 3, 32, 32))
    for field, side in ((near, 3), (far, 5)):
        assert field.sum() == pytest.approx(1, abs=1e-5)
        rows, columns = torch.where(field > 0)
        half = side // 2
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16 - half, 16 + half, 16 - half, 16 + half)
    assert side_that_holds(torch.eye(8)[3:4].T @ torch.eye(8)[3:4], 0.9) == 2
    assert side_that_holds(torch.full((10, 10), 0.01), 0.5) == 8


def test_picture_marks_what_is_seen():
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, 1, 2] = True
    picture = draw_seen(np.full((64, 64, 3), 128, np.uint8), Seen("x", [(3, 0)], masks)).astype(int)
    assert picture.shape == (512, 512, 3)
    colored = np.ptp(picture, axis=2) > 30
    assert colored[140:240, 270:370].all()
    assert not colored[:120].any()


def test_tokens_of_one_window_both_show_it():
    """Tokens that see the same have stripes of both colors there; elsewhere each has its own."""
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[:, :2, :2] = True
    masks[1, 3, 3] = True
    picture = draw_seen(np.full((64, 64, 3), 128, np.uint8), Seen("x", [(3, 0), (0, 3)], masks)).astype(int)
    alone = [
        draw_seen(np.full((64, 64, 3), 128, np.uint8), Seen("x", [(3, 0), (0, 3)], torch.stack(pair))).astype(int)
        for pair in ((masks[0], masks[0] & False), (masks[0] & False, masks[1]))
    ]
    shared = np.s_[5:250, 5:250]
    colors = [one[100, 100] for one in alone]
    found = [(picture[shared] == color).all(2).mean() for color in colors]
    assert sum(found) == 1
    assert min(found) > 0.45
    assert (picture[400:500, 400:500] == colors[1]).all()


def test_field_takes_folders(tmp_path, caplog):
    colors = (10, 90, 200)
    for index, color in enumerate(colors):
        path = tmp_path / "a/b" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((40, 60 + index, 3), color, np.uint8))
    (tmp_path / "a/broken.png").write_bytes(b"no image")
    found = list(squares([str(tmp_path / "a"), str(path)], 32, Config({})))
    assert [one.shape for one in found] == [(32, 32, 3)] * 4  # the broken one is named and left out
    assert sorted(int(one.mean()) for one in found) == [10, 90, 200, 200]
    with pytest.raises(DataError, match=r"broken\.png"):
        list(squares([str(tmp_path / "a/broken.png")], 32, Config({})))


def test_model_without_backbone(tmp_path):
    (tmp_path / "config.py").write_text("model = dict(type='X')")
    with pytest.raises(ConfigError, match="no backbone to look at"):
        load_backbone(str(tmp_path / "config.py"))
