"""`localvit compare`: two detectors on the same images."""

import json
import re

import pytest
import torch
from mmdet.registry import MODELS

from localvit.commands.analyze import compare as command
from localvit_det import Detector
from localvit_det.analysis.compare import compare
from localvit_det.config import load_config
from localvit_det.datasets.synthetic_shapes import CLASSES, make_shapes


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Writes a nano detector with weights that find something, by its backbone and its classes."""
    folder = tmp_path_factory.mktemp("published")

    def publish(net: str, classes: tuple[str, ...] = CLASSES):
        path = folder / f"{net}_{'_'.join(classes)}.pth"
        if not path.exists():
            torch.manual_seed(0)
            cfg = load_config(f"mask_rcnn_{net}_nano_shapes")
            model = MODELS.build(cfg.model)
            with torch.no_grad():
                model.roi_head.bbox_head.fc_cls.weight.mul_(20)
            meta = {"cfg": cfg.pretty_text, "dataset_meta": {"classes": classes}}
            torch.save({"state_dict": model.state_dict(), "meta": meta}, path)
        return path

    return publish


@pytest.mark.slow
def test_two_detectors(published, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = make_shapes(tmp_path / "shapes", num_train=1, num_val=4, size=64)
    files = [published("dwnet"), published("shuffle", (CLASSES[1], CLASSES[0], CLASSES[2]))]
    arguments = ["--data", data, "--images", 2, "--resamples", 50, "--json", tmp_path / "found.json"]
    command([*map(str, (*files, *arguments))])
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found["tasks"]) == ["bbox", "segm"]
    # As the detector's own evaluation says it, which is MMDetection's; of the one with classes in another order.
    metrics = Detector(files[1]).val(data, work_dir=tmp_path / "val")
    for task, one in found["tasks"].items():
        assert one["ap"][1] == pytest.approx(metrics[f"coco/{task}_mAP"], abs=1e-3)
        assert set(one["classes"]) <= set(CLASSES)
    for index, file in enumerate(files):
        model = Detector(file, fuse=False).model
        assert found["parameters"][index] == sum(one.numel() for one in model.parameters())
        assert found["file_bytes"][index] == file.stat().st_size
        assert found["macs"][index] > 1e8
    first, second = found["images_per_second"]
    assert 0.2 < found["speed"] / (second / first) < 5
    assert found["images"] == 4
    said = capsys.readouterr().out
    assert "95% of draws of images" in said
    assert "circle (masks)" in said or "circle (boxes)" in said
    assert not list(tmp_path.glob("work_dirs"))


@pytest.mark.slow
def test_refused_before_any_work(published, monkeypatch, refused):
    monkeypatch.setattr(Detector, "val", None)
    refused(command, published("dwnet"), published("dwnet", ("a", "b", "c")))
    with pytest.raises(Exception, match=r"know different classes.*compare two that were trained on the same ones"):
        compare(published("dwnet"), published("dwnet", ("a", "b", "c")))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--resamples", "3"], "--resamples 3 makes no sense: give a whole number from 20 on"),
        (["--images", "0"], "--images 0 makes no sense"),
        (["--data", "nowhere"], "--data .*nowhere does not exist"),
        (["--json", "/proc/x/found.json"], "--json .*cannot be written|cannot be written"),
        (["--device", "gpu"], "--device gpu names no devices"),
    ],
)
def test_mistakes(arguments, sentence, tmp_path, refused):
    weights = tmp_path / "a.pth"
    weights.write_bytes(b"")
    assert re.search(sentence, refused(command, weights, weights, *arguments))
