"""Train, evaluate and export from Python, as the commands do."""

import numpy as np
import pytest

from localvit.arguments import read
from localvit.commands import files
from localvit_det import Detector
from localvit_det.datasets.synthetic_shapes import CLASSES, make_shapes
from localvit_det.errors import ConfigError, UserError
from localvit_det.predict.detector import config_named
from localvit_det.predict.workflows import _arguments, _run

NANO = "mask_rcnn_shuffle_nano_shapes"


def test_options_become_arguments():
    settings = {"epochs": 3, "work_dir": "W", "amp": True, "ema": False, "resume": None, "log": ["a", "b"]}
    found = _arguments(["x.py"], {**settings, "options": {"lr": 1e-4, "a.b": [1, 2]}}, {"data_root": "my set"})
    assert found == [
        *("x.py", "--epochs", "3", "--work-dir", "W", "--amp", "--log", "a", "b"),
        *("--cfg-options", "data_root=my set", "lr=0.0001", "a.b=[1, 2]"),
    ]
    with pytest.raises(ConfigError, match=r"^train: unrecognized arguments: --epocs 3 .did you mean '--epochs'"):
        _run("train", _arguments([NANO], {"epocs": 3}, {}))
    with pytest.raises(ConfigError, match="no_such_config does not exist"):
        _run("train", ["no_such_config"])


def test_names_of_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_named("shuffle_t") == "mask_rcnn_shuffle_t_coco"
    assert config_named(NANO) == NANO
    assert config_named("nothing") is config_named("x.pth") is config_named(tmp_path) is None
    (tmp_path / "own.py").touch()
    assert config_named("own.py") == "own.py"
    (tmp_path / "shuffle_t").mkdir()  # a work dir
    assert config_named("shuffle_t") is None


def test_without_weights_nothing_is_found(tmp_path):
    detector = Detector(NANO, device="cpu")
    assert not detector.trained
    uses = (lambda: detector.predict("x.jpg"), detector.val, lambda: detector.export(tmp_path / "x.onnx"))
    for use in (*uses, detector.hub_files, lambda: detector(np.zeros((8, 8, 3), np.uint8))):
        with pytest.raises(ConfigError, match=rf"Detector\('{NANO}'\) has no weights: train\(\) it"):
            use()


@pytest.mark.slow
def test_from_a_folder_to_an_exported_detector(tmp_path, monkeypatch):
    """A second training starts from the first one's weights, and in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    root = make_shapes(tmp_path / "shapes", num_train=8, num_val=4, size=96)
    detector = Detector(NANO, device="cpu", options={"model.test_cfg.rcnn.max_per_img": 5})
    settings = {"workers": 0, "device": "cpu"}
    run = detector.train(data=root, epochs=1, batch=2, work_dir=tmp_path / "W", **settings)
    assert run.folder == tmp_path / "W"
    assert run.checkpoint.parent == run.folder
    assert {"coco/bbox_mAP", "coco/segm_mAP"} <= run.metrics.keys()
    assert np.isfinite(run.curves["train/loss"]).all()
    assert len(run.curves["train/loss"]) == 4
    assert run.curves["val/coco/bbox_mAP"] == [run.metrics["coco/bbox_mAP"]]
    assert run._repr_png_().startswith(b"\x89PNG")
    assert detector.trained
    assert detector.classes == CLASSES

    metrics = detector.val(work_dir=tmp_path / "T", **settings)
    assert metrics["coco/bbox_mAP"] == pytest.approx(run.metrics["coco/bbox_mAP"], abs=1e-3)
    image = next(root.rglob("*.jpg"))
    assert len(detector(image, score=0)) <= 5
    exported: list[list[str]] = []
    monkeypatch.setattr(files.export, "__wrapped__", exported.append)  # test_newcomers_hour.py runs the command
    assert detector.export(tmp_path / "d.pt", size="96x64") == tmp_path / "d.pt"
    args = read("export", exported[0])
    assert (args.model, args.out, args.size) == (str(run.checkpoint), str(tmp_path / "d.pt"), (96, 64))
    again = detector.train(data=root, epochs=1, batch=2, imgsz=96, work_dir=tmp_path / "W2", **settings)
    assert "found   converted" in "".join(path.read_text() for path in again.folder.rglob("*.log"))
    with pytest.raises(UserError, match="nothing"):
        detector.train(data=tmp_path / "nothing", work_dir=tmp_path / "W3", **settings)
