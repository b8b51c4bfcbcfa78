"""Checkpoints through the commands: mistakes end in one sentence; fine-tuning, publishing, testing."""

import os
import re
from pathlib import Path

import pytest
import torch
from checkpoint_cases import CONFIGS, Runs, detector, run, saved
from official_layouts import dwnet, shuffle

from localvit_det.checkpoint.read import load_weights_only
from localvit_det.datasets.synthetic_shapes import CLASSES, make_shapes
from localvit_det.files import sha256


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=16, num_val=4, size=96)


@pytest.fixture
def stars(tmp_path) -> Path:
    """The second set: other colours and one more class."""
    return make_shapes(tmp_path / "stars", num_train=16, num_val=4, size=96, classes=(*CLASSES, "star"), palette="dusk")


@pytest.fixture
def ends(capsys, shapes, tmp_path):
    """Return what runs a tool that must end in one sentence, with nothing trained."""

    def ends(tool: str, config: str, *arguments: object, options: tuple = ()) -> str:
        with pytest.raises(SystemExit) as stop:
            run(
                tool, CONFIGS[config], *arguments, "--work-dir", tmp_path / "run",
                "--cfg-options", "workers=0", f"data_root={shapes}", *options,
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


LARGER = ("model.backbone.arch.embed_dims=48", "model.neck.in_channels=[48,96,192,384]")
# The tool, the config, the option before the file if any, what the file holds, more options, what is said.
MISTAKES = {
    "Shuffle into GG": ("train", "gg", "--pretrained", shuffle, (), "its backbone is ShuffleTransformer"),
    "small into large": ("train", "dwnet", "--pretrained", lambda: dwnet(window=5), LARGER, "DWNet with 48 channels"),
    "backbone as detector": ("train", "dwnet", "--load-from", lambda: dwnet(window=5), (), "not a detector"),
    "backbone in a test": ("test", "dwnet", None, lambda: dwnet(window=5), (), "not a detector"),
    "unknown policy": ("train", "dwnet", None, None, ("load_policy=fine-tune",), "did you mean 'finetune'"),
    "what is no training": ("train", "dwnet", "--resume", detector, (), "--load-from"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_end_in_one_sentence(ends, tmp_path, case):
    tool, config, option, content, options, words = MISTAKES[case]
    file = [saved(tmp_path / "file.pth", content())] if content else []
    assert words in ends(tool, config, *([option] if option else []), *file, options=options)


@pytest.mark.slow
def test_other_class_count(ends, tmp_path):
    file = saved(tmp_path / "v2.pth", detector(classes=20))
    for sentence in (
        ends("test", "dwnet", file),
        ends("test", "dwnet", file, options=("load_policy=finetune",)),  # no test of heads that start new
        ends("train", "dwnet", options=(f"load_from={file}",)),
    ):
        assert "trained for 20 classes and the model has 3" in sentence


@pytest.mark.slow
def test_files_that_are_no_checkpoints(ends, tmp_path):
    marker = tmp_path / "was-run"
    evil = saved(tmp_path / "evil.pth", {"state_dict": Runs(os.system, f"touch {marker}")})
    assert f"{evil} is refused" in ends("train", "dwnet", "--pretrained", evil)
    assert f"{evil} is refused" in ends("train", "dwnet", "--load-from", evil)
    assert f"{evil} is refused" in ends("test", "dwnet", evil)
    assert not marker.exists()
    (tmp_path / "empty").mkdir()  # what names a work dir takes its newest checkpoint
    for option in ("--pretrained", "--load-from"):
        assert "empty holds no checkpoint" in ends("train", "dwnet", option, tmp_path / "empty")
    assert "cannot go on from the work dir" in ends("train", "dwnet", "--resume", tmp_path / "empty")


@pytest.mark.slow
def test_train_publish_test_infer_fine_tune(shapes, stars, tmp_path, capsys):
    """One life of a model: trained with EMA, published, tested and used without its config, fine-tuned."""
    options = ("--cfg-options", "workers=0", "train_cfg.max_epochs=1", "train_cfg.val_interval=1")
    config = tmp_path / "averaged.py"
    config.write_text(
        f"_base_ = '{CONFIGS['dwnet']}'\n"
        "custom_hooks = [dict(type='EMAHook', momentum=1e-9)]\n"  # the average stays at the first step
        "visualizer = dict(name='own log in this process')\n"
    )
    start = detector()
    file = saved(tmp_path / "v2.pth", start)
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

    run("test", published, "--work-dir", tmp_path / "test", "--cfg-options", f"data_root={shapes}", "workers=0")
    tested = capsys.readouterr().out
    scores = [re.findall(r"^bbox +(\S+)", text, re.MULTILINE)[-1] for text in (trained, tested)]
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
