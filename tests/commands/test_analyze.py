"""`localvit analyze` and `localvit test --report`, from arguments to pages."""

import json
import re
from pathlib import Path

import cv2
import pytest
import torch
from made_results import write_log, write_shapes
from mmdet.registry import MODELS
from mmengine.config import Config
from pages import check_page

from localvit.commands import analyze, test
from localvit_det.config import load_config
from localvit_det.datasets.synthetic_shapes import CLASSES
from localvit_det.errors import ConfigError, DataError
from localvit_det.evaluation.record import keep_predictions, read_record

NAME = "mask_rcnn_shuffle_nano_shapes"


def run(*arguments: object) -> None:
    analyze.main(list(map(str, arguments)))


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_results(results, here, capsys):
    truth = results / "annotations/instances_val2017.json"
    run("results", results / "predictions.json", "--annotations", truth, "--images", results / "val2017", "--worst", 2)
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if line.startswith(("circle", "square", "triangle", "all"))]
    assert said.endswith("written: results.html\n")
    assert (here / "results.html").read_text().count("data:image/jpeg") == 2
    run(
        "results",
        results / "predictions.json",
        "--annotations",
        truth,
        "--by",
        "f1",
        "--files",
        "files",
        "--out",
        "a.html",
    )
    assert "No image" not in (here / "a.html").read_text()
    assert "images cannot be read in a folder that is not known" in (here / "a.html").read_text()
    assert {path.name for path in (here / "files").iterdir()} > {"classes_bbox.csv", "confusion.png"}


def test_data(results, here, capsys):
    run("data", NAME, "--images", 2, "--cfg-options", f"data_root={results}")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows if row[:1] in (["train"], ["val"])] == [["train", "3"], ["val", "12"]]
    assert (here / "data.html").read_text().count("data:image/jpeg") == 4


def test_runs_and_a_training_without_test(here, capsys):
    write_log(here / "run", range(1, 3))
    run("runs", "run", "--out", "curves.html")
    run("run", "run")
    run("./run", "--out", "again.html")
    said = capsys.readouterr().out
    for page in ("curves.html", "run/report.html", "again.html"):
        assert f"written: {page}\n" in said
        check_page((here / page).read_text())
    assert (here / "run/report.html").read_text() == (here / "again.html").read_text()


@pytest.mark.slow
def test_windows_and_field(here, results, capsys):
    image = next((results / "val2017").glob("*.jpg"))
    run("windows", NAME, image, "--size", 64, "--at", "0.5,0.5", "--files", "pictures")
    assert cv2.imread(str(here / "pictures/windows_stages_0_blocks_1_mixer.jpg")) is not None
    titles = [f"Map of {side} x {side} tokens" for side in (16, 8, 4, 2)]
    text = check_page((here / "windows.html").read_text()).text
    assert [title for title in titles if text.count(title) == 2] == titles  # in the text and among the links
    capsys.readouterr()
    run("field", NAME, image, "--size", 64)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("map ")]
    halves = [int(row[2]) for row in rows[1:]]
    assert halves == sorted(halves)  # deeper maps see further
    assert len(halves) == 4
    assert "with random weights" in check_page((here / "field.html").read_text()).text


@pytest.mark.slow
def test_report_of_a_test(here, capsys):
    root = write_shapes(here / "shapes", val=4)
    torch.manual_seed(3)
    cfg = load_config(NAME)
    training = write_log(here / "training", range(1, 3))
    scaled = {"optim_wrapper.optimizer.lr": 0.0123, "auto_scale_lr.enable": True}
    of_training = load_config(NAME, {"train_cfg.max_epochs": 77, **scaled})
    of_training.dump(training / "20260101_000000/vis_data/config.py")
    older = write_log(here / "training", range(1, 9), start="20250101_000000") / "20250101_000000/vis_data/config.py"
    load_config(NAME, {"train_cfg.max_epochs": 66}).dump(older)
    file = training / "epoch_2.pth"
    meta = {"cfg": cfg.pretty_text, "dataset_meta": {"classes": CLASSES}}
    torch.save({"state_dict": MODELS.build(cfg.model).state_dict(), "meta": meta}, file)
    arguments = [NAME, str(file), "--work-dir", "out", "--report", "--cfg-options", f"data_root={root}"]
    test.main([*arguments, "test_dataloader.num_workers=0", "test_dataloader.persistent_workers=False"])
    record = read_record("out")
    assert (record.config, record.checkpoint, record.image_count) == (NAME, str(file), 4)
    assert record.seconds > 0
    page = check_page((here / "out/report.html").read_text()).text
    for text in (
        "Best F1",
        "Confusions",
        "seconds an image",
        "triangle",
        str(file),
        "AdamW, learning rate 0.0123 for a batch of 8, scaled to its batch",
        "77 epochs",
    ):
        assert text in page
    # Neither the settings of the test, whose config has them for a training, too, nor those of an earlier training.
    assert "8 epochs" not in page
    assert "66 epochs" not in page
    assert re.search(r"(?<!\d)20iterations trained|iterations trained20(?!\d)", page)
    assert "iterations trained" in page  # found next to the checkpoint
    capsys.readouterr()
    run("out", "--score", 0.01, "--out", "again.html")
    said = capsys.readouterr().out
    assert f"{record.metrics['coco/bbox_mAP']:.3f}" in said.partition("all")[2]
    assert "scores from 0.01 on" in (here / "again.html").read_text()
    run("field", file, "--size", 32)
    assert "with trained weights" in (here / "field.html").read_text()


def test_report_needs_ground_truth_and_cocos_metric(tmp_path):
    for evaluator, sentence in (
        ({"type": "CocoMetric", "format_only": True}, "has none"),
        ({"type": "IoUMetric"}, "evaluates with IoUMetric"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            keep_predictions(Config({"work_dir": str(tmp_path), "test_evaluator": evaluator}))
    metric = [{"type": "FastCocoMetric", "ann_file": "a"}]
    cfg = Config({"work_dir": str(tmp_path), "test_evaluator": metric})
    old = tmp_path / "evaluation/predictions.segm.json"
    old.parent.mkdir()
    old.write_text("[]")
    keep_predictions(cfg)
    assert cfg.test_evaluator[0].outfile_prefix == str(tmp_path / "evaluation/predictions")
    assert not old.exists()


def test_record_that_is_broken(tmp_path):
    assert read_record(tmp_path) is None
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation/evaluation.json").write_text(json.dumps({"what": 1}))
    with pytest.raises(DataError, match="cannot be read"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["dta", NAME], "There is no verb 'dta' (did you mean 'data'?)"),
        (["nowhere"], "nowhere is neither a folder nor one of run, results"),
        (["."], "There is nothing to report in ."),
        (["runs", "."], "No training has logged anything in ."),
        (["run", ".", "--score", "2"], "--score 2.0 makes no sense"),
        (["results", "none.json", "--annotations", "none.json"], "The annotation file"),
        (["windows", NAME, "none.jpg"], "There is no file or folder"),
        (["windows", NAME, "none.jpg", "--at", *["0,0"] * 5], "--at has 5 tokens, and 4 can be distinguished"),
        (["field", NAME, "--size", "8"], "--size 8 is too small"),
    ],
)
def test_mistakes(arguments, sentence, here, refused):
    assert sentence in refused(analyze.main, *arguments)
    assert not list(here.glob("*.html"))
