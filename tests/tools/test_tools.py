"""The command-line tools from the user's side: real runs, settings of a process, commands that have moved."""

import os
import pickle
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, forget_visualizers

import _moved
from localvit.commands import test, train
from localvit_det.datasets.synthetic_shapes import make_shapes

NANO = "configs/mask_rcnn_shuffle_nano_shapes.py"


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
    options = ("--cfg-options", "workers=0", f"data_root={coco_root}", "train_cfg.max_epochs=1", *small, *indices)
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


OWN_PROCESS = ("num_workers=0", "persistent_workers=False")


@pytest.mark.slow
def test_mmdetections_own_train_script(shapes, tmp_path):
    """The package works as a plug-in: named in custom_imports, without any tool of ours."""
    import mmdet

    script = Path(mmdet.__file__).parent / ".mim/tools/train.py"
    command = [sys.executable, str(script), NANO, "--work-dir", str(tmp_path / "run"), "--cfg-options"]
    for split in ("train", "val", "test"):
        command.append(f"{split}_dataloader.dataset.data_root={shapes}/")
        if split != "train":
            command.append(f"{split}_evaluator.ann_file={shapes}/annotations/instances_val2017.json")
        command += [f"{split}_dataloader.{one}" for one in ("dataset.indices=2", *OWN_PROCESS)]
    command.append("train_cfg.max_epochs=1")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run/epoch_1.pth").is_file()
    assert np.isfinite(float(done.stdout.split("loss: ")[-1].split()[0]) if "loss: " in done.stdout else 0.0)


KEEPS = """
import _process, os
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = resident()
block = bytearray(64 << 20)
del block
print(os.environ.get("GOMP_SPINCOUNT"), (resident() - before) >> 20)
"""


def run(**environment: str) -> tuple[str, int]:
    """The spin count, and how many MiB of a freed block of 64 MiB the process keeps."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("LOCALVIT_", "GOMP_", "OMP_", "MALLOC_"))}
    environment = {**inherited, "PYTHONPATH": f"{REPOSITORY / 'tools'}{os.pathsep}{REPOSITORY}", **environment}
    command = [sys.executable, "-c", KEEPS]
    spin, kept = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    return spin, int(kept)


@pytest.mark.skipif(sys.platform != "linux", reason="settings of Linux")
def test_memory_is_kept_and_threads_give_way():
    assert run() == ("10000", pytest.approx(64, abs=2))


@pytest.mark.skipif(sys.platform != "linux", reason="settings of Linux")
@pytest.mark.parametrize(
    ("environment", "spin", "kept"),
    [
        ({"LOCALVIT_PROCESS": "plain"}, "None", 0),
        ({"OMP_WAIT_POLICY": "active"}, "None", 64),
        ({"GOMP_SPINCOUNT": "7", "MALLOC_ARENA_MAX": "4"}, "7", 0),
    ],
)
def test_environment_comes_first(environment, spin, kept):
    assert run(**environment) == (spin, pytest.approx(kept, abs=2))


@pytest.mark.parametrize("name", _moved.NEW)
def test_old_command_says_the_new_one(name):
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(REPOSITORY / f"tools/{name}.py"))
    sentence = str(stop.value.code)
    assert sentence.startswith(f"error: tools/{name}.py has moved: run `")
    assert sentence.count("`") % 2 == 0
