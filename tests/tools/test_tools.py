"""The command-line tools from the user's side: real runs, and mistakes reported in one sentence."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, forget_visualizers

from localvit.commands import test, train
from localvit_det.datasets.synthetic_shapes import make_shapes

NANO = "configs/mask_rcnn_shuffle_nano_shapes.py"
# Small enough for seconds; no workers, so that every random number is the process's own.
QUICK = (
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
    "val_dataloader.num_workers=0",
    "val_dataloader.persistent_workers=False",
    "test_dataloader.num_workers=0",
    "test_dataloader.persistent_workers=False",
)


def metrics(output: str) -> str:
    """The table of results in a tool's output, the last one."""
    rows = [line.strip() for line in output.splitlines() if line.strip().startswith(("bbox ", "segm "))]
    return "\n".join(rows[-2:])


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=24, num_val=6, size=96)


@pytest.mark.slow
def test_real_images_train_evaluate_and_test_alike(coco_root, tmp_path, capfd):
    small = [
        f"{split}_dataloader.dataset.pipeline.{step}.scale=(256,160)"
        for split, step in (("train", 2), ("val", 1), ("test", 1))
    ]
    indices = [f"{split}_dataloader.dataset.indices={n}" for split, n in (("train", 2), ("val", 2), ("test", 2))]
    options = ("--cfg-options", *QUICK, f"data_root={coco_root}", "train_cfg.max_epochs=1", *small, *indices)
    options += ("model.test_cfg.rcnn.score_thr=0.0",)  # a step or two teach nothing: keep what there is
    options += ("model.train_cfg.rcnn.sampler.num=32", "model.test_cfg.rpn.max_per_img=50")
    config = str(tmp_path / "small.py")  # the recipe, without the published size's checkpoint of half a gigabyte
    Path(config).write_text(
        "_base_ = 'localvit_det::mask_rcnn_shuffle_t_coco.py'\n"
        "arch = dict(_delete_=True, embed_dims=32, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), drop_path_rate=0.0)\n"
        "model = dict(backbone=dict(arch=arch), roi_head=dict(bbox_head=dict(fc_out_channels=64)))\n"
    )
    train.main([config, "--work-dir", str(tmp_path / "run"), *options])
    trained = "".join(capfd.readouterr())
    assert "Epoch(train)" in trained
    assert (tmp_path / "run/curves.png").stat().st_size > 5000
    images = tmp_path / "images"
    forget_visualizers()
    outputs = ["--show-dir", str(images), "--out", str(tmp_path / "predictions.pkl")]
    test.main([config, str(tmp_path / "run"), "--work-dir", str(tmp_path / "test"), *outputs, *options])
    assert metrics(trained) == metrics("".join(capfd.readouterr())) != ""
    assert len(list(images.glob("*.jpg"))) >= 1
    assert len(pickle.loads((tmp_path / "predictions.pkl").read_bytes())) == 2


@pytest.mark.slow
def test_mmdetections_own_train_script(shapes, tmp_path):
    """The package works as a plug-in: named in custom_imports, without any tool of ours."""
    import mmdet

    script = Path(mmdet.__file__).parent / ".mim/tools/train.py"
    command = [sys.executable, str(script), NANO, "--work-dir", str(tmp_path / "run"), "--cfg-options", *QUICK]
    for split in ("train", "val", "test"):
        command.append(f"{split}_dataloader.dataset.data_root={shapes}/")
        if split != "train":
            command.append(f"{split}_evaluator.ann_file={shapes}/annotations/instances_val2017.json")
        command.append(f"{split}_dataloader.dataset.indices=2")
    command.append("train_cfg.max_epochs=1")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run/epoch_1.pth").is_file()
    assert np.isfinite(float(done.stdout.split("loss: ")[-1].split()[0]) if "loss: " in done.stdout else 0.0)
