"""The command-line tools from the user's side: real runs, and mistakes reported in one sentence."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
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


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.target}",)


def spoil(root: Path, change) -> None:
    file = root / "annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.fixture
def own_shapes(shapes, tmp_path) -> Path:
    """A copy that a test may spoil."""
    import shutil

    return Path(shutil.copytree(shapes, tmp_path / "own"))


def train_fails(capsys, *arguments: object) -> str:
    """Runs tools/train.py in this process; it must end in one sentence and code 1."""
    import runpy

    main = runpy.run_path(str(REPOSITORY / "tools/train.py"))["main"]
    with pytest.raises(SystemExit) as stop:
        main([str(REPOSITORY / NANO), *map(str, arguments)])
    captured = capsys.readouterr()
    assert stop.value.code == 1
    assert "Traceback" not in captured.err + captured.out
    sentences = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1, captured.err
    return sentences[0]


class TestMistakes:
    """What each kind of mistake says is tested next to the checks; here: that the tool reports it so."""

    def fails(self, capsys, root: Path, tmp_path: Path, *options: str) -> str:
        return train_fails(capsys, "--work-dir", tmp_path / "run", "--cfg-options", f"data_root={root}", *options)

    def test_annotation_file_missing(self, capsys, own_shapes, tmp_path):
        (own_shapes / "annotations/instances_val2017.json").rename(tmp_path / "elsewhere.json")
        (own_shapes / "annotations/instances_train2017.json").unlink()
        (own_shapes / "keep").touch()
        assert str(own_shapes) in self.fails(capsys, own_shapes, tmp_path)

    def test_image_missing(self, capsys, own_shapes, tmp_path):
        next((own_shapes / "train2017").iterdir()).unlink()
        assert "1 of the 24" in self.fails(capsys, own_shapes, tmp_path)

    def test_empty_set(self, capsys, own_shapes, tmp_path):
        spoil(own_shapes, lambda c: c.update(annotations=[]))
        assert "instances_train2017.json" in self.fails(capsys, own_shapes, tmp_path)

    def test_class_misspelt(self, capsys, own_shapes, tmp_path):
        message = self.fails(
            capsys, own_shapes, tmp_path, "train_dataloader.dataset.metainfo.classes=('circle','sqare','triangle')"
        )
        assert "square" in message

    def test_number_of_classes(self, capsys, own_shapes, tmp_path):
        message = self.fails(capsys, own_shapes, tmp_path, "model.roi_head.mask_head.num_classes=80")
        assert "model.roi_head.mask_head" in message
        assert "80" in message

    def test_channels(self, capsys, own_shapes, tmp_path):
        message = self.fails(capsys, own_shapes, tmp_path, "model.neck.in_channels=[1,2,3,4]")
        assert "[1, 2, 3, 4]" in message
        assert "32" in message

    def test_unknown_key(self, capsys, own_shapes, tmp_path):
        message = self.fails(capsys, own_shapes, tmp_path, "model.backbone.windowsize=7")
        assert "window_size" in message

    def test_boxes_outside(self, capsys, own_shapes, tmp_path):
        spoil(own_shapes, lambda c: [a.update(bbox=[500, 500, 20, 20]) for a in c["annotations"]])
        assert "box" in self.fails(capsys, own_shapes, tmp_path)

    def test_work_dir(self, capsys, own_shapes, tmp_path):
        (tmp_path / "run").write_text("a file")
        assert str(tmp_path / "run") in self.fails(capsys, own_shapes, tmp_path)

    def test_config_missing(self, capsys):
        import runpy

        main = runpy.run_path(str(REPOSITORY / "tools/train.py"))["main"]
        with pytest.raises(SystemExit) as stop:
            main([str(REPOSITORY / "configs/mask_rcnn_shufle_t_coco.py")])
        assert stop.value.code == 1
        assert "mask_rcnn_shuffle_t_coco.py" in capsys.readouterr().err


def test_malicious_checkpoint_runs_nothing(shapes, tmp_path, capsys):
    marker = tmp_path / "was-run"
    checkpoint = tmp_path / "evil.pth"
    torch.save({"state_dict": Malicious(marker)}, checkpoint)
    arguments = [str(REPOSITORY / NANO), str(checkpoint), "--work-dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stop:
        test.main([*arguments, "--cfg-options", f"data_root={shapes}"])
    said = capsys.readouterr().err
    assert stop.value.code == 1
    assert "Traceback" not in said
    assert "evil.pth" in said
    assert not marker.exists()


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
