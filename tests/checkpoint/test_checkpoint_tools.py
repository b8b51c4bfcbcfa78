"""Checkpoints through the tools: mistakes in one sentence, fine-tuning, publishing, converting."""

import os
import re
import runpy
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from mmdet.registry import MODELS
from official_layouts import dwnet, shuffle

from localvit_det.checkpoint.read import load_weights_only
from localvit_det.config import load_config
from localvit_det.datasets.synthetic_shapes import CLASSES, make_shapes
from localvit_det.files import sha256

CONFIGS = {name: REPOSITORY / f"configs/mask_rcnn_{name}_nano_shapes.py" for name in ("dwnet", "gg", "shuffle")}
NO_WORKERS = tuple(
    f"{split}_dataloader.{key}"
    for split in ("train", "val", "test")
    for key in ("num_workers=0", "persistent_workers=False")
)


def run(tool: str, *arguments: object) -> None:
    runpy.run_path(str(REPOSITORY / f"tools/{tool}.py"))["main"]([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=16, num_val=4, size=96)


@pytest.fixture
def stars(tmp_path) -> Path:
    """The second set: other colours and one more class."""
    return make_shapes(tmp_path / "stars", num_train=16, num_val=4, size=96, classes=(*CLASSES, "star"), palette="dusk")


@pytest.fixture
def ends(capsys, shapes, tmp_path):
    """Runs a tool that must end in one sentence, with nothing trained."""

    def ends(tool: str, config: str, *arguments: object, options: tuple = ()) -> str:
        with pytest.raises(SystemExit) as stop:
            run(
                tool, CONFIGS[config], *arguments, "--work-dir", tmp_path / "run",
                "--cfg-options", *NO_WORKERS, f"data_root={shapes}", *options,
            )  # fmt: skip
        captured = capsys.readouterr()
        assert stop.value.code == 1
        assert "Traceback" not in captured.err + captured.out
        assert "Epoch(" not in captured.out
        sentences = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        assert len(sentences) == 1, captured.err
        assert not list((tmp_path / "run").rglob("*.pth"))
        return sentences[0]

    return ends


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def detector(classes: int = 3) -> dict:
    """A DWNet nano detector as MMDetection 2 would have written it."""
    cfg = load_config(CONFIGS["dwnet"], {"classes": [f"class {i}" for i in range(classes)]})
    state = {k: v for k, v in MODELS.build(cfg.model).state_dict().items() if not k.startswith("backbone.")}
    state |= {f"backbone.{k}": v for k, v in dwnet(detection=True, window=5).items()}
    return {"state_dict": state, "meta": {"mmdet_version": "2.11.0"}, "optimizer": {}}


def test_shuffle_into_gg(ends, tmp_path):
    file = save(tmp_path / "shuffle.pth", {"model": shuffle()})
    sentence = ends("train", "gg", "--pretrained", file)
    assert f"{file} does not fit GGTransformer" in sentence
    assert "its backbone is ShuffleTransformer" in sentence


def test_small_into_large(ends, tmp_path):
    file = save(tmp_path / "nano.pth", {"model": dwnet(window=5)})
    options = ("model.backbone.arch.embed_dims=48", "model.neck.in_channels=[48,96,192,384]")
    sentence = ends("train", "dwnet", "--pretrained", file, options=options)
    assert "DWNet with 32 channels and 2-2-2-2 blocks" in sentence
    assert "the model's is DWNet with 48 channels" in sentence


@pytest.mark.slow
def test_detector_as_backbone(ends, tmp_path):
    sentence = ends("train", "dwnet", "--pretrained", save(tmp_path / "detector.pth", detector()))
    assert "whole detector and not a backbone" in sentence


@pytest.mark.parametrize("tool", ["train", "test"])
def test_backbone_as_detector(ends, tmp_path, tool):
    file = save(tmp_path / "nano.pth", {"model": dwnet(window=5)})
    assert "not a detector" in ends(tool, "dwnet", *(("--load-from", file) if tool == "train" else (file,)))


@pytest.mark.slow
def test_other_class_count(ends, tmp_path):
    file = save(tmp_path / "v2.pth", detector(classes=20))
    for sentence in (
        ends("test", "dwnet", file),
        ends("test", "dwnet", file, options=("load_policy=finetune",)),  # no test of heads that start new
        ends("train", "dwnet", options=(f"load_from={file}",)),
    ):
        assert "trained for 20 classes and the model has 3" in sentence


@pytest.mark.slow
def test_files_that_are_no_checkpoints(ends, tmp_path):
    whole = save(tmp_path / "whole.pth", detector())
    cut = tmp_path / "cut.pth"
    cut.write_bytes(whole.read_bytes()[:-500])
    page = tmp_path / "page.pth"
    page.write_text("<!DOCTYPE html><html><body>Sign in</body></html>")
    marker = tmp_path / "was-run"

    class Malicious:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {marker}",)

    evil = save(tmp_path / "evil.pth", {"state_dict": Malicious()})
    assert f"{cut} is cut off" in ends("train", "dwnet", "--pretrained", cut)
    assert f"{cut} is cut off" in ends("test", "dwnet", cut)
    assert f"{page} is a text" in ends("train", "dwnet", "--load-from", page)
    assert f"{evil} is refused" in ends("train", "dwnet", "--pretrained", evil)
    assert f"{evil} is refused" in ends("train", "dwnet", "--load-from", evil)
    assert not marker.exists()


def test_unknown_policy(ends):
    assert "did you mean 'finetune'" in ends("train", "dwnet", options=("load_policy=fine-tune",))


def test_resuming_from_what_is_no_training(ends, tmp_path):
    assert "--load-from" in ends("train", "dwnet", "--resume", save(tmp_path / "v2.pth", detector()))


def test_convert(tmp_path, capsys):
    official = dwnet(96, (2, 2, 6, 2))
    source = save(tmp_path / "dwnet_tiny_224.pth", {"model": official})
    run("convert_checkpoint", source, tmp_path / "clean.pth")
    assert "not needed: head.bias" in capsys.readouterr().out
    clean = load_weights_only(tmp_path / "clean.pth")
    assert clean["meta"]["source_sha256"] == sha256(source)
    assert all(isinstance(value, torch.Tensor) for value in clean["state_dict"].values())
    net = MODELS.build({"type": "DWNet", "init_cfg": {"type": "Pretrained", "checkpoint": str(tmp_path / "clean.pth")}})
    net.init_weights()
    torch.testing.assert_close(net.stem.norm.bias.detach(), official["patch_embed.norm.bias"])

    safetensors = pytest.importorskip("safetensors")
    run("convert_checkpoint", source, tmp_path / "clean.safetensors")
    with safetensors.safe_open(tmp_path / "clean.safetensors", "pt") as file:
        assert file.metadata()["source_sha256"] == sha256(source)
    torch.testing.assert_close(load_weights_only(tmp_path / "clean.safetensors"), clean["state_dict"])


def test_convert_the_backbone_of_a_classifier(tmp_path):
    state = {f"module.backbone.{name}": tensor for name, tensor in dwnet(96, (2, 2, 6, 2)).items()}
    state = {name: tensor for name, tensor in state.items() if not name.startswith("module.backbone.head.")}
    source = save(tmp_path / "classifier.pth", {"state_dict": state | {"module.head.fc.weight": torch.zeros(3, 768)}})
    run("convert_checkpoint", source, tmp_path / "clean.pth")
    clean = load_weights_only(tmp_path / "clean.pth")["state_dict"]
    torch.testing.assert_close(clean["stem.norm.bias"], state["module.backbone.patch_embed.norm.bias"])


def test_convert_detector(tmp_path):
    content = detector()
    content["meta"]["CLASSES"] = ["cat", "dog", "fox"]
    source = save(tmp_path / "v2.pth", content)
    run("convert_checkpoint", source, tmp_path / "v3.pth", "--config", CONFIGS["dwnet"])
    assert load_weights_only(tmp_path / "v3.pth")["meta"]["dataset_meta"] == {"classes": ("cat", "dog", "fox")}
    model = MODELS.build(load_config(CONFIGS["dwnet"]).model)
    assert load_weights_only(tmp_path / "v3.pth")["state_dict"].keys() == model.state_dict().keys()
    with pytest.raises(SystemExit):
        run("convert_checkpoint", source, tmp_path / "v3.pth")


@pytest.mark.slow
def test_train_publish_test_infer_fine_tune(shapes, stars, tmp_path, capsys):
    """One life of a model: trained with EMA, published, tested and used without its config, fine-tuned."""
    options = ("--cfg-options", *NO_WORKERS, "train_cfg.max_epochs=1", "train_cfg.val_interval=1")
    config = tmp_path / "averaged.py"
    config.write_text(
        f"_base_ = '{CONFIGS['dwnet']}'\n"
        "custom_hooks = [dict(type='EMAHook', momentum=1e-9)]\n"  # the average stays at the first step
        "visualizer = dict(name='own log in this process')\n"
    )
    start = detector()
    file = save(tmp_path / "v2.pth", start)
    run("train", config, "--work-dir", tmp_path / "run", "--load-from", file, *options, f"data_root={shapes}")
    trained = capsys.readouterr().out

    run("publish_model", tmp_path / "run/epoch_1.pth", "--out-dir", tmp_path / "out")
    published = Path(capsys.readouterr().out.strip().splitlines()[-1])
    name, digits = re.fullmatch(r"(.+)-([0-9a-f]{8})\.pth", published.name).groups()
    assert name == "averaged"
    assert sha256(published).startswith(digits)
    content, checkpoint = load_weights_only(published), load_weights_only(tmp_path / "run/epoch_1.pth")
    assert content.keys() == {"state_dict", "meta"}
    assert content["meta"]["ema"]
    assert content["meta"]["dataset_meta"]["classes"] == CLASSES
    assert content["meta"]["versions"]["torch"] == torch.__version__
    key = "roi_head.bbox_head.shared_fcs.0.weight"
    averaged, last = content["state_dict"][key], checkpoint["ema_state_dict"][f"module.{key}"]
    moved = [(tensor - start["state_dict"][key]).abs().max() for tensor in (averaged, last)]
    assert 0 < moved[0] < 0.6 * moved[1]
    assert published.stat().st_size < 0.5 * (tmp_path / "run/epoch_1.pth").stat().st_size

    run("test", published, "--work-dir", tmp_path / "test", "--cfg-options", f"data_root={shapes}", *NO_WORKERS)
    tested = capsys.readouterr().out
    scores = [re.findall(r"coco/bbox_mAP: (\S+)", text)[-1] for text in (trained, tested)]
    assert scores[0] == scores[1]
    assert content["meta"]["metrics"]["coco/bbox_mAP"] == pytest.approx(float(scores[0]), abs=1e-3)

    from mmdet.apis import DetInferencer

    image = next((shapes / "val2017").iterdir())
    inferencer = DetInferencer(weights=str(published), device="cpu", show_progress=False)
    predictions = inferencer(str(image), no_save_vis=True)["predictions"]
    assert inferencer.model.dataset_meta["classes"] == CLASSES
    assert set(predictions[0]) >= {"bboxes", "labels", "scores", "masks"}

    run(
        "train", CONFIGS["dwnet"], "--work-dir", tmp_path / "tuned", "--load-from", published, *options,
        f"data_root={stars}", "classes=auto", "optim_wrapper.optimizer.lr=0.0",
    )  # fmt: skip
    out = capsys.readouterr().out
    assert f"classes that keep their rows: 3 ({', '.join(CLASSES)}); classes that start as initialised: 1 (star)" in out
    tuned = load_weights_only(tmp_path / "tuned/epoch_1.pth")["state_dict"]
    head = "roi_head.bbox_head.fc_cls.weight"
    assert tuned[head].shape[0] == len(CLASSES) + 2
    torch.testing.assert_close(tuned[head][[0, 1, 2, 4]], content["state_dict"][head])  # the last is the background
    torch.testing.assert_close(tuned[key], content["state_dict"][key])
