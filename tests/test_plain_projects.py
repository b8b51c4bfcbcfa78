"""Projects of MMDetection that name this package in `custom_imports`, run by MMDetection's own script.

Images load as MMCV loads them, until our hook acts.
"""

import json
import runpy
from contextlib import nullcontext
from pathlib import Path

import mmcv.transforms
import mmdet
import numpy as np
import pytest
import torch
from coco_folder import annotations, dataset_config, write_coco
from conftest import REPOSITORY, forget_visualizers
from mmdet.registry import DATASETS, METRICS, MODELS, RUNNERS, TRANSFORMS
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from PIL import Image
from torch import nn

from localvit_det import patches
from localvit_det.datasets.synthetic_shapes import make_shapes
from localvit_det.errors import DataError

SCRIPT = Path(mmdet.__file__).parent / ".mim/tools/train.py"
HOOK = {"type": "BrokenImagesHook"}


@MODELS.register_module()
class MeanOfPixels(BaseModel):
    """A detector for tests, which finds nothing."""

    def __init__(self, data_preprocessor: dict | None = None) -> None:
        super().__init__(data_preprocessor)
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs, data_samples=None, mode="tensor"):
        return {"loss": self.weight * inputs.mean()} if mode == "loss" else data_samples


@METRICS.register_module()
class CountOfImages(BaseMetric):
    def process(self, data_batch, data_samples) -> None:
        self.results += [sample["img_path"] for sample in data_samples]

    def compute_metrics(self, results: list) -> dict:
        return {"images": len(results)}


@pytest.fixture
def root(tmp_path) -> Path:
    return write_coco(tmp_path / "coco")


def train(monkeypatch, config: Path, folder: Path, *options: str) -> None:
    """Run MMDetection's script in this process."""
    forget_visualizers()
    name = f"experiment_name={folder.parent.name}"  # of the logger, which MMEngine finds again within a second
    arguments = [str(config), "--work-dir", str(folder), "--cfg-options", name, *options]
    monkeypatch.setattr("sys.argv", [str(SCRIPT), *arguments])
    monkeypatch.setenv("LOCAL_RANK", "0")
    runpy.run_path(str(SCRIPT), run_name="__main__")


def log_of(folder: Path) -> str:
    return "".join(file.read_text() for file in sorted(folder.glob("*/*.log")))


def plain_config(tmp_path: Path, root: Path, **more: object) -> Path:
    """A config like one of MMDetection's own, with a model of one weight."""

    def loader(split: str, **settings: object) -> dict:
        sampler = {"type": "DefaultSampler", "shuffle": False}
        return {
            "dataset": dataset_config(root, split, **settings),
            "batch_size": 2,
            "num_workers": 0,
            "sampler": sampler,
        }

    content = {
        "custom_imports": {"imports": ["localvit_det"]},
        "default_scope": "mmdet",
        "model": {"type": "MeanOfPixels", "data_preprocessor": {"type": "DetDataPreprocessor"}},
        "train_dataloader": loader("train2017"),
        "val_dataloader": loader("val2017", test_mode=True),
        "val_evaluator": {"type": "CountOfImages"},
        "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 1},
        "val_cfg": {"type": "ValLoop"},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.0}},
        "default_hooks": {"logger": {"type": "LoggerHook", "interval": 1}},
        **more,
    }
    cfg = Config(content)
    cfg.dump(tmp_path / "plain.py")
    return tmp_path / "plain.py"


def test_wrong_sizes_of_images_train(tmp_path, monkeypatch):
    wrong = annotations()
    for image in wrong["images"]:
        image.update(width=320, height=200)
    root = write_coco(tmp_path / "coco")
    (root / "annotations/instances_train2017.json").write_text(json.dumps(wrong))
    train(monkeypatch, plain_config(tmp_path, root), tmp_path / "run")
    log = log_of(tmp_path / "run")
    assert "Epoch(train) [1][2/2]" in log
    assert "cannot be used" not in log


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_broken_image_ends_a_run_by_its_name(tmp_path, root, monkeypatch, split):
    (root / f"{split}2017/002.jpg").write_bytes(b"no image")
    with pytest.raises(AssertionError, match=rf"failed to load image: .*{split}2017/002.jpg"):
        train(monkeypatch, plain_config(tmp_path, root), tmp_path / "run")


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 2}},
        {"train_cfg": {"type": "IterBasedTrainLoop", "max_iters": 4, "val_interval": 4}},
    ],
    ids=["epochs", "a pipeline that is switched", "iterations"],
)
def test_the_hook_protects_any_runner(tmp_path, root, monkeypatch, more):
    """Also in data workers, and in the pipeline of the last epochs."""
    for split in ("train", "val"):
        (root / f"{split}2017/002.jpg").write_bytes(b"no image")
    hooks = [HOOK]
    if more.get("train_cfg", {}).get("max_epochs") == 2:
        steps = dataset_config(root)["pipeline"]
        hooks = [{"type": "PipelineSwitchHook", "switch_epoch": 1, "switch_pipeline": steps}, HOOK]
    config = plain_config(tmp_path, root, custom_hooks=hooks, **more)
    train(
        monkeypatch,
        config,
        tmp_path / "run",
        "train_dataloader.num_workers=1",
        "train_dataloader.persistent_workers=True",
    )
    log = log_of(tmp_path / "run")
    assert "images: 4" in log
    assert "val2017/002.jpg cannot be decoded" in log


def test_the_hook_stops_on_demand(tmp_path, root, monkeypatch):
    (root / "train2017/002.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"002.jpg .*: fix or remove it"):
        train(monkeypatch, plain_config(tmp_path, root, custom_hooks=[HOOK]), tmp_path / "run", "broken_images=stop")


def test_our_config_names_a_broken_image_of_a_validation(tmp_path):
    shapes = make_shapes(tmp_path / "shapes", num_train=2, num_val=2, size=64)
    broken = sorted((shapes / "val2017").iterdir())[0]
    broken.write_bytes(b"no image")
    cfg = Config.fromfile(REPOSITORY / "configs/mask_rcnn_shuffle_nano_shapes.py")
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = f"{shapes}/"
    cfg.val_evaluator.ann_file = f"{shapes}/annotations/instances_val2017.json"
    cfg.default_hooks.checkpoint.save_best = None  # which needs a training
    cfg.work_dir = str(tmp_path / "run")
    RUNNERS.build(cfg).val()  # as MMDetection's scripts
    assert f"{broken.name} cannot be decoded" in log_of(tmp_path / "run")


def outcome(transform, results: dict) -> object:
    try:
        return transform(dict(results))
    except Exception as error:
        return type(error), str(error).partition(" at 0x")[0]


@pytest.mark.parametrize("settings", [{}, {"to_float32": True}, {"imdecode_backend": "pillow"}, {"ignore_empty": True}])
@pytest.mark.parametrize("row", [True, False], ids=["ours", "without the row"])
def test_without_the_hook_all_is_as_in_mmcv(tmp_path, settings, row):
    """Images, sizes, what is raised and what is skipped."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(noise).save(tmp_path / "good.jpg")
    Image.fromarray(noise).save(tmp_path / "turned.jpg", exif=turned)
    Image.fromarray(noise[..., 0].astype(np.uint16) * 16).save(tmp_path / "deep.png")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:-500])
    (tmp_path / "text.jpg").write_bytes(b"no image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    with nullcontext() if row else patches.without("image_files"):
        ours = TRANSFORMS.build({"type": "LoadImageFromFile", **settings})
    assert (type(ours) is mmcv.transforms.LoadImageFromFile) is not row
    theirs = mmcv.transforms.LoadImageFromFile(**settings)
    for name in ("good.jpg", "turned.jpg", "deep.png", "cut.jpg", "text.jpg", "empty.jpg", "missing.jpg"):
        results = {
            "img_path": str(tmp_path / name),
            "width": 33,
            "height": 44,
            "seg_map_path": str(tmp_path / "cut.jpg"),
        }
        np.testing.assert_equal(outcome(ours, results), outcome(theirs, results))
    assert repr(ours) == repr(theirs)


def test_datasets_without_a_runner_load_as_mmcv(root):
    (root / "train2017/002.jpg").write_bytes(b"no image")
    dataset = DATASETS.build(dataset_config(root))
    with pytest.raises(AssertionError, match="failed to load image"):
        dataset[1]
