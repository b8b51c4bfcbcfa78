"""Images with more than 8 bits: said, scaled by one setting everywhere, and never cut in silence."""

import logging
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from coco_folder import annotations, write_coco, write_config
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.runner import BaseLoop
from PIL import Image
from torch.utils.data import DataLoader

from localvit_det.analysis.networks import open_image
from localvit_det.checkpoint.safe_config import take
from localvit_det.config import load_config
from localvit_det.datasets import load_image
from localvit_det.datasets.images import BrokenImageError, decode, pixel_range_of, read_depth
from localvit_det.engine import BrokenImagesHook
from localvit_det.errors import ConfigError, DataError
from localvit_det.predict import sources
from localvit_det.predict.sources import Sources
from localvit_det.preflight import check_config, images

GRAY = np.tile(np.linspace(0, 255, 100).round().astype(np.uint8), (80, 1))  # what an image of 8 bits has
COLOR = np.stack([GRAY, GRAY[:, ::-1], GRAY // 2], axis=2)


def encoded(ending: str, values: np.ndarray) -> bytes:
    return cv2.imencode(ending, values)[1].tobytes()


def twelve(values: np.ndarray) -> np.ndarray:
    """The same picture in 12 bits."""
    return np.rint(values.astype(float) * 4095 / 255).astype(np.uint16)


@pytest.fixture
def lines(monkeypatch) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for module in (images, sources):
        monkeypatch.setattr(module, "print_log", lambda text, _, level=logging.INFO: found.append((level, text)))
    return found


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("picture", [GRAY, COLOR])
def test_12_bits_become_what_8_bits_had(ending, picture):
    content = encoded(ending, twelve(picture))
    expected = picture if picture.ndim == 3 else cv2.merge([picture] * 3)
    assert np.array_equal(decode(content, pixel_range=(0, 4095)), expected)
    assert decode(content).max() <= 16  # of 255: what OpenCV leaves
    assert np.array_equal(decode(encoded(ending, picture), pixel_range=(0, 4095)), expected)  # 8 bits stay


@pytest.mark.parametrize(
    ("values", "pixel_range", "kind"),
    [
        (GRAY.astype(np.float32) / 255, (0, 1), "float32"),
        (COLOR.astype(np.float32) / 255, (0, 1), "float32"),
        (GRAY.astype(np.float64) - 1000, (-1000, -745), "float64"),
        (GRAY.astype(np.int32) * 1000, (0, 255_000), "int32"),
    ],
)
def test_other_types_are_named_and_scaled(values, pixel_range, kind):
    content = encoded(".tif", values)
    with pytest.raises(BrokenImageError, match=rf"has pixels of type {kind}, from .*pixel_range=\[LOW,HIGH\]"):
        decode(content)
    expected = COLOR if values.ndim == 3 else cv2.merge([GRAY] * 3)
    assert np.array_equal(decode(content, pixel_range=pixel_range), expected)
    assert read_depth(content).kind == kind


def test_no_number_is_black():
    values = GRAY.astype(np.float32)
    values[0] = np.nan
    expected = GRAY.copy()
    expected[0] = 0
    assert np.array_equal(decode(encoded(".tif", values), pixel_range=(0, 255))[..., 0], expected)


def test_the_setting():
    assert pixel_range_of(None) is None
    assert pixel_range_of(4095) == pixel_range_of([0, 4095]) == (0, 4095)
    for wrong in (0, -3, "12", [1], [3, 2], True, [0, float("inf")], [0, float("nan")]):
        with pytest.raises(ConfigError, match="pixel_range"):
            load_config("mask_rcnn_shuffle_nano_shapes", {"pixel_range": wrong}, data=False)


@pytest.fixture
def root(tmp_path) -> Path:
    """A set of pictures of 12 bits in PNG."""
    content = annotations()
    for image in content["images"]:
        image["file_name"] = image["file_name"].replace("jpg", "png")
    write_coco(tmp_path / "mine", content, content)
    for file in (tmp_path / "mine").rglob("*.png"):
        file.write_bytes(encoded(".png", twelve(COLOR)))
    return tmp_path / "mine"


def test_one_setting_for_training_test_predictions_and_analysis(tmp_path, root, lines):
    cfg = load_config(write_config(tmp_path), {"data_root": str(root), "classes": "auto", "pixel_range": 4095})
    check_config(cfg)
    assert [level for level, _ in lines] == [logging.INFO] * 2
    assert "have pixels of type uint16, from 0 to 4095: 100% of pixel_range 0 to 4095 is used" in lines[0][1]
    for split in ("train", "test"):
        dataset = DATASETS.build({**cfg[f"{split}_dataloader"].dataset, "pipeline": [{"type": "LoadImageFromFile"}]})
        loop = BaseLoop.__new__(type("Loop", (BaseLoop,), {"run": None, "__abstractmethods__": frozenset()}))
        loop._dataloader, loop.dataloader = None, SimpleNamespace(dataset=dataset)
        loops = dict.fromkeys(("_train_loop", "_val_loop", "_test_loop")) | {f"_{split}_loop": loop}
        BrokenImagesHook().before_run(SimpleNamespace(cfg=cfg, hooks=[], register_hook=print, **loops))
        assert np.array_equal(dataset[0]["img"], COLOR)
    file = root / "val2017/001.png"
    [frame] = Sources(str(file), pixel_range=cfg.pixel_range)
    assert np.array_equal(frame.image, COLOR)
    assert np.array_equal(open_image(file, 1000, cfg), COLOR)
    kept = take({"model": {"type": "MaskRCNN"}, "pixel_range": [0, 4095]})  # of published and exported files
    assert kept["pixel_range"] == [0, 4095]


def test_what_is_lost_without_it_is_said(tmp_path, root, lines):
    check_config(load_config(write_config(tmp_path), {"data_root": str(root), "classes": "auto"}))
    level, text = lines[0]
    assert level == logging.WARNING
    assert text.startswith(
        "Images of train_dataloader.dataset have pixels of type uint16, from 0 to 4095: 6% of the range"
    )
    assert "16 of 256 gray levels are left; pixel_range=4095 scales them" in text
    lines.clear()
    list(Sources([str(file) for file in sorted((root / "val2017").iterdir())]))
    [(level, text)] = lines  # once
    assert level == logging.WARNING
    assert "pixel_range=4095 scales them" in text


def test_a_range_that_does_not_fit_is_said(tmp_path, root, lines):
    options = {"data_root": str(root), "classes": "auto"}
    check_config(load_config(write_config(tmp_path), {**options, "pixel_range": 1023}))
    assert lines[0][0] == logging.WARNING
    assert "(values beyond it are cut)" in lines[0][1]


def test_full_16_bits_are_no_warning(tmp_path, root, lines):
    for file in root.rglob("*.png"):
        file.write_bytes(encoded(".png", COLOR.astype(np.uint16) * 257))
    check_config(load_config(write_config(tmp_path), {"data_root": str(root), "classes": "auto"}))
    assert {level for level, _ in lines} == {logging.INFO}
    assert "100% of the range of 16 bits" in lines[0][1]


def test_images_of_pil_are_scaled_likewise():
    wide = Image.fromarray(twelve(GRAY))
    assert wide.mode == "I;16"
    expected = cv2.merge([GRAY] * 3)
    [frame] = Sources(wide, pixel_range=4095)
    assert np.array_equal(frame.image, expected)
    [frame] = Sources(Image.fromarray(GRAY.astype(np.int32)))
    assert np.array_equal(frame.image, expected)
    with pytest.raises(DataError, match="float32"):
        list(Sources(Image.fromarray(GRAY.astype(np.float32) * 2)))


def test_pages_are_scaled_likewise(tmp_path):
    cv2.imwritemulti(str(tmp_path / "pages.tif"), [twelve(GRAY), twelve(GRAY[::-1, ::-1])])
    frames = list(Sources(str(tmp_path / "pages.tif"), pixel_range=4095))
    for frame, picture in zip(frames, (GRAY, GRAY[::-1, ::-1]), strict=True):
        assert np.array_equal(frame.image, cv2.merge([picture] * 3))


def test_floats_stop_before_a_run(tmp_path, root):
    for file in list(root.rglob("*.png")):
        file.with_suffix(".tif").write_bytes(encoded(".tif", GRAY.astype(np.float32) / 255))
        file.unlink()
    for file in (root / "annotations").iterdir():
        file.write_text(file.read_text().replace(".png", ".tif"))
    cfg = load_config(write_config(tmp_path), {"data_root": str(root), "classes": "auto"})
    with pytest.raises(DataError, match=r"4 of 4 images .* has pixels of type float32, from 0 to 1,"):
        check_config(cfg, train=False)
    check_config(load_config(write_config(tmp_path), {"data_root": str(root), "classes": "auto", "pixel_range": 1}))


@pytest.mark.parametrize("good", [0, 1])
def test_images_that_processes_repeat_count_once(good, monkeypatch):
    """4 processes with 10 images load 12; each knows of its own."""
    bad = torch.arange(10) >= good
    shares = [[index % 10 for index in range(rank, 12, 4)] for rank in range(4)]
    flags = [torch.zeros(10, dtype=torch.uint8).index_fill_(0, torch.tensor(share), 1) * bad for share in shares]

    def all_reduce(own: torch.Tensor, op: str = "sum") -> None:
        others = torch.stack(flags).int() if own.dim() else torch.stack(flags).sum(1)
        own.copy_((others.amax(0) if op == "max" else others.sum(0)).expand_as(own))

    monkeypatch.setattr(load_image.dist, "all_reduce", all_reduce)
    hook = BrokenImagesHook()
    hook._unusable = {"_test_loop": [flags[0]]}
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=range(10)))
    if good:
        hook._refuse_no_image(loop, "_test_loop")
    else:
        with pytest.raises(DataError, match="None of the 10 images could be used"):
            hook._refuse_no_image(loop, "_test_loop")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("good", [0, 1])
def test_a_test_without_a_usable_image_is_no_success(tmp_path, root, workers, good):
    cfg = load_config(write_config(tmp_path), {"data_root": str(root), "classes": "auto"})
    for index, file in enumerate(sorted((root / "val2017").iterdir())):
        if index >= good:
            file.write_bytes(file.read_bytes()[:200])  # the header is whole
    dataset = DATASETS.build({**cfg.test_dataloader.dataset, "pipeline": [{"type": "LoadImageFromFile"}]})
    loop = BaseLoop.__new__(type("Loop", (BaseLoop,), {"run": None, "__abstractmethods__": frozenset()}))
    loop.dataloader = DataLoader(dataset, num_workers=workers, collate_fn=list)
    runner = SimpleNamespace(cfg=cfg, _train_loop=None, _val_loop=None, _test_loop=loop, test_loop=loop)
    hook = BrokenImagesHook()
    hook.before_run(runner)
    for _ in loop.dataloader:
        pass
    if good:
        hook.after_test_epoch(runner)
    else:
        with pytest.raises(DataError, match="None of the 4 images could be used"):
            hook.after_test_epoch(runner)


def test_without_effect_is_refused():
    class Other(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 1

    loop = BaseLoop.__new__(type("Loop", (BaseLoop,), {"run": None, "__abstractmethods__": frozenset()}))
    loop.dataloader = DataLoader(Other())
    runner = SimpleNamespace(cfg=Config({"pixel_range": 4095}), _train_loop=loop, _val_loop=None, _test_loop=None)
    with pytest.raises(ConfigError, match="pixel_range has no effect"):
        BrokenImagesHook().before_run(runner)
