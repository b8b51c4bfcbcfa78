"""Options of `localvit train` that change how a training runs."""

import logging
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from localvit.commands import train
from localvit_det.config import load_config
from localvit_det.datasets.synthetic_shapes import make_shapes
from localvit_det.engine.loggers import ScreenFilter
from localvit_det.errors import ConfigError
from localvit_det.switches import compute_alike, enable_amp, seed

NAME = "mask_rcnn_shuffle_nano_shapes"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=8, num_val=2, size=96)


def dry_run(capsys, shapes: Path, folder: Path, *arguments: str) -> str:
    options = ["workers=0", f"data_root={shapes}", "train_dataloader.batch_size=2"]
    train.main([NAME, "--dry-run", "--work-dir", str(folder / "run"), *arguments, "--cfg-options", *options])
    return capsys.readouterr().out


@pytest.mark.slow
def test_dry_run_tries_everything_and_writes_nothing(capsys, shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = dry_run(capsys, shapes, tmp_path, "--seed", "5")
    assert "Everything works: one step with 2 images" in out
    assert "2 images of the validation went through" in out
    assert "paramwise_options" not in out
    assert "GCC" not in out
    assert list(tmp_path.iterdir()) == []
    loss = out.rpartition("; ")[2]
    assert "loss_mask" in loss
    assert dry_run(capsys, shapes, tmp_path, "--seed", "5", "--deterministic").rpartition("; ")[2] == loss
    torch.use_deterministic_algorithms(False)
    other = dry_run(capsys, shapes, tmp_path, "--seed", "6", "--verbose")
    assert other.rpartition("; ")[2] != loss
    assert "paramwise_options" in other


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="of CPUs")
def test_mixed_precision_on_a_cpu(capsys, shapes, tmp_path):
    """Losses are near those of float32, and not the same."""
    plain, mixed = (
        dict(part.split() for part in dry_run(capsys, shapes, tmp_path, "--seed", "5", *options).rpartition("; ")[2]
             .partition(".\n")[0].removesuffix(". Nothing was written to the work dir").split(", "))
        for options in ([], ["--amp"])
    )  # fmt: skip
    assert plain.keys() == mixed.keys()
    assert plain != mixed
    for name, value in plain.items():
        assert float(mixed[name]) == pytest.approx(float(value), rel=0.1, abs=0.05), name


def test_seed_and_determinism():
    cfg = Config({"randomness": {"seed": 0}})
    compute_alike(cfg)
    assert cfg.randomness == {"seed": 0, "deterministic": True}
    seed(cfg, 3)
    assert cfg.randomness.seed == 3


def test_amp_replaces_no_wrapper_of_its_own():
    with pytest.raises(ConfigError, match="type GanOptimWrapper"):
        enable_amp(Config({"optim_wrapper": {"type": "GanOptimWrapper"}}))


class TestHooks:
    @pytest.fixture
    def config(self, tmp_path) -> Path:
        path = tmp_path / "own.py"
        path.write_text(
            f"_base_ = 'localvit_det::{NAME}.py'\n"
            "custom_hooks = [dict(type='EMAHook', momentum=1e-3), dict(type='CurvesHook')]\n"
        )
        return path

    def kinds(self, config: Path, **options: object) -> list[str]:
        return [hook["type"] for hook in load_config(config, options).custom_hooks]

    def test_own_hooks_are_added(self, config):
        kinds = self.kinds(config)
        assert {"EMAHook", "FusedEvaluationHook", "ProgressBarHook", "TrainingReportHook", "LoadPolicyHook"} <= {*kinds}
        assert kinds.count("CurvesHook") == 1

    def test_ours_can_be_left_out(self, config):
        kinds = self.kinds(config, omit_hooks=["FusedEvaluationHook"])
        assert "FusedEvaluationHook" not in kinds
        assert "EMAHook" in kinds
        with pytest.raises(ConfigError, match="did you mean 'CurvesHook'"):
            self.kinds(config, omit_hooks="CurveHook")

    def test_the_loading_of_images_can_be_mmcvs(self, config):
        assert self.kinds(config).count("BrokenImagesHook") == 1
        assert "BrokenImagesHook" not in self.kinds(config, omit_hooks="BrokenImagesHook")
        with pytest.raises(ConfigError, match="pixel_range has no effect where omit_hooks leaves out BrokenImagesHook"):
            self.kinds(config, omit_hooks="BrokenImagesHook", pixel_range=4095)

    def test_configs_of_others_are_left_alone(self, tmp_path):
        path = tmp_path / "other.py"
        path.write_text("custom_hooks = [dict(type='EMAHook')]\n")
        assert self.kinds(path) == ["EMAHook", "LoadPolicyHook", "BrokenImagesHook"]


def shown(text: str, reported: bool = True) -> bool:
    return ScreenFilter(reported).filter(logging.LogRecord("x", logging.INFO, "", 0, text, (), None))


NEVER, ALONE, ALWAYS = (False, False), (False, True), (True, True)  # with our own report of results, and without it


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("paramwise_options -- backbone.norm:lr=1", NEVER),
        ("\n---\nSystem environment:\n GCC", NEVER),
        ('"FileClient" will be deprecated in', NEVER),
        ("creating index...", NEVER),
        ("DONE (t=0.02s).", NEVER),
        (" Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0.017", ALONE),
        (" Average Recall     (AR) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0.033", ALONE),
        ("bbox_mAP_copypaste: 0.017 0.084 0.000 0.000 0.050 -1.000", ALONE),
        ("Epoch(val) [1][1/1]    coco/bbox_mAP: 0.0170  coco/bbox_mAP_50: 0.0840", ALONE),
        ("The best checkpoint with 0.0170 coco/bbox_mAP at 1 epoch is saved to best_coco_bbox_mAP.pth.", ALONE),
        ("Epoch(train) [1][4/4] loss: 4.5411", ALWAYS),
        ("Epoch(val) [1][50/625]    eta: 0:01:00  time: 0.4907", ALWAYS),
        ("Epoch(val) [1][1/1]    coco_panoptic/PQ: 30.1", ALWAYS),
        ("Epoch(test) [1/1]    pascal_voc/mAP: 0.5", ALWAYS),
        ("something that a dataset of others prints", ALWAYS),
    ],
)
def test_what_the_screen_shows(text, expected):
    assert (shown(text), shown(text, reported=False)) == expected
