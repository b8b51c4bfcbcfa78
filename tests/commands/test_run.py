"""A run goes on, is tested, predicts and is reported as it was started: commands in one work dir."""

import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from conftest import forget_visualizers, lines_logged_by
from pages import check_page
from test_odd_layouts import NAME

from localvit.commands import analyze, predict, test, train
from localvit_det.analysis.report import read_log
from localvit_det.checkpoint.read import load_weights_only
from localvit_det.config import run as run_module
from localvit_det.config.run import find_run
from localvit_det.datasets.synthetic_shapes import make_shapes

pytestmark = pytest.mark.slow
SMALL = "model.backbone.arch.depths=[1,1,1,1]"
CHANGED = ["train_cfg.max_epochs=4", "optim_wrapper.optimizer.lr=0.002", "optim_wrapper.optimizer.weight_decay=0.2",
           "train_dataloader.batch_size=4"]  # fmt: skip


def run(command: ModuleType, *arguments: str) -> None:
    """Run a command as in a process of its own."""
    forget_visualizers()
    command.main(list(arguments))


def options(*more: str) -> list[str]:
    lengths = ["train_cfg.max_epochs=2", "train_cfg.val_interval=1", "param_scheduler.1.end=2"]
    return [
        "--cfg-options",
        "workers=0",
        *lengths,
        "train_dataloader.batch_size=2",
        "default_hooks.logger.interval=1",
        "omit_hooks=CurvesHook",
        SMALL,
        *more,
    ]


def renamed(root: Path, names: dict[str, str]) -> Path:
    """Give the classes of a set other names, so that it is not taken for synthetic shapes."""
    for file in root.glob("annotations/*.json"):
        content = json.loads(file.read_text())
        for category in content["categories"]:
            category["name"] = names[category["name"]]
        file.write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Foreign data, a second set of the same classes, and a run of two epochs with four settings of its own."""
    root = tmp_path_factory.mktemp("place")
    names = {"circle": "nut", "square": "bolt", "triangle": "gear"}
    for name, images in (("mine", 8), ("other", 4)):
        renamed(make_shapes(root / name, num_train=images, num_val=2, size=64, seed=images), names)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("LOCALVIT_CACHE", str(root / "cache"))
        own = ["data_root=mine", "classes=auto", "image_size=64", "with_mask=False"]
        run(train, NAME, "--work-dir", "W", "--ema", "0.01", *options(*own))
    return root


@pytest.fixture
def here(place, tmp_path, monkeypatch) -> Path:
    """A copy of it, and the present folder."""
    for name in ("mine", "other", "W"):
        shutil.copytree(place / name, tmp_path / name)
    (dump,) = (tmp_path / "W").glob("*.py")  # as if it had been started here
    dump.write_text(dump.read_text().replace(str(place / "W"), str(tmp_path / "W")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCALVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def reported(monkeypatch) -> list[str]:
    """What is said of the run."""
    return lines_logged_by(monkeypatch, run_module)


def refused(capsys: pytest.CaptureFixture, command: ModuleType, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        run(command, *arguments)
    assert stop.value.code == 1
    return capsys.readouterr().err.splitlines()[-1]


def log_of_last_start(folder: str = "W") -> str:
    return max(Path(folder).glob("*/*.log")).read_text()


def scores_of(*arguments: str, out: str) -> dict:
    """The metrics of a test."""
    run(test, *arguments, "--work-dir", out)
    return json.loads(next(Path(out).glob("*/*.json")).read_text())


def test_resume_repeats_what_was_given(here, reported):
    run(train, NAME, "--work-dir", "W", "--resume", "--cfg-options", "train_cfg.max_epochs=3")
    assert "classes=auto data_root=mine" in reported[0]
    assert "with_mask=False" in reported[0]
    found = find_run("W")
    assert found.config["train_dataloader"]["dataset"]["data_root"] == "mine/"
    assert found.config["classes"] == ("nut", "bolt", "gear")
    assert found.config["custom_hooks"][-1]["momentum"] == 0.01
    assert found.switches == {"ema": 0.01}
    assert found.options["train_cfg.max_epochs"] == "3"
    # The schedule was made for the length of the training, and follows it.
    assert found.config["param_scheduler"][1]["end"] == 3
    assert found.options["param_scheduler.1.end"] == 3
    assert not (here / "data").exists()  # where synthetic shapes would be


def test_four_changed_settings(here):
    """Applied from the third epoch on, with the rates of a training that had them from the start, and listed."""
    run(train, NAME, "--work-dir", "W", "--resume", "--cfg-options", *CHANGED)
    log = log_of_last_start()
    table = log.partition("Settings that have changed:\n")[2].partition("\n20")[0].splitlines()
    rows = [[cell.strip() for cell in row.split("|")] for row in table]
    assert [row[:3] for row in rows[1:]] == [
        ["optim_wrapper.optimizer.lr", "0.001", "0.002"],
        ["optim_wrapper.optimizer.weight_decay", "0.05", "0.2"],
        ["param_scheduler.1.end", "2", "4"],
        ["train_cfg.max_epochs", "2", "4"],
        ["train_dataloader.batch_size", "2", "4"],
    ]
    assert {row[3] for row in rows[1:]} == {"yes, schedule rebuilt at iteration 8"}
    x, resumed = read_log("W").line("base_lr")
    assert list(x[-4:]) == [9, 10, 11, 12]  # two epochs of two batches
    whole = [*options("data_root=mine", "classes=auto", "image_size=64", "with_mask=False"), *CHANGED]
    run(train, NAME, "--work-dir", "whole", *whole, "param_scheduler.1.end=4")
    assert list(resumed[-4:]) == list(read_log("whole").line("base_lr")[1][-4:])
    groups = load_weights_only("W/epoch_4.pth")["optimizer"]["param_groups"]
    assert max(group["weight_decay"] for group in groups) == 0.2


def test_resume_before_the_first_checkpoint(here, reported):
    """A run that was killed early has said in its work dir what it was started with."""
    for file in Path("W").glob("*.pth"):
        file.unlink()
    run(train, NAME, "--work-dir", "W", "--resume", "--cfg-options", "train_cfg.max_epochs=1")
    assert find_run("W").config["data_root"] == "mine/"


def test_resume_with_other_data_is_refused_unless_named(here, capsys):
    Path("own.py").write_text(f"_base_ = 'localvit_det::{NAME}.py'\n")
    renamed(Path("other"), {"nut": "nut", "bolt": "bolt", "gear": "wheel"})
    said = refused(capsys, train, NAME, "--work-dir", "W", "--resume", "--cfg-options", "classes=[nut,bolt]")
    assert (
        "W/epoch_2.pth was trained on the classes nut, bolt, gear, and train_dataloader.dataset has nut, bolt" in said
    )
    shutil.rmtree("mine")
    Path("other").rename("mine")  # the same place, other classes
    said = refused(capsys, train, NAME, "--work-dir", "W", "--resume")
    assert "differs from that of the run (W/" in said
    assert "classes.2 was gear and is wheel" in said or "classes was" in said
    assert find_run("W").config["classes"] == ("nut", "bolt", "gear")


def test_edited_and_other_configs(here, capsys, reported):
    """What a file changes is applied and shown, but for data, classes and architecture, which have to be named."""
    Path("own.py").write_text(f"_base_ = 'localvit_det::{NAME}.py'\noptim_wrapper = dict(optimizer=dict(lr=0.004))\n")
    run(train, "own.py", "--work-dir", "W", "--resume", "--cfg-options", "train_cfg.max_epochs=3")
    assert "optim_wrapper.optimizer.lr " in log_of_last_start().partition("Settings that have changed:")[2]
    Path("own.py").write_text(f"_base_ = 'localvit_det::{NAME}.py'\nmodel = dict(backbone=dict(window_size=3))\n")
    said = refused(capsys, train, "own.py", "--work-dir", "W", "--resume")
    assert "in architecture: model.backbone.window_size was 5 and is 3" in said
    said = refused(capsys, test, "own.py", "W")
    assert "in architecture: model.backbone.window_size was 5" in said
    said = refused(capsys, test, "mask_rcnn_swin_nano_shapes", "W")
    assert "model.backbone.type was ShuffleTransformer and is SwinTransformer" in said
    Path("own.py").write_text(f"_base_ = 'localvit_det::{NAME}.py'\ndata_root = 'other/'\n")
    shutil.copytree("W", "X")
    reported.clear()
    scores_of("own.py", "X", "--cfg-options", "data_root=other", out="T")
    assert "test_dataloader.dataset.data_root" in reported[-1]


def test_test_with_its_config(here, reported):
    """`test CONFIG W`, a file in W, and W alone are the same test."""
    expected = scores_of("W", out="a")
    assert scores_of(NAME, "W", out="b")["coco/bbox_mAP"] == expected["coco/bbox_mAP"]
    assert "data_root=mine" in reported[-1]
    assert scores_of(NAME, "W/epoch_2.pth", out="c")["coco/bbox_mAP"] == expected["coco/bbox_mAP"]
    assert scores_of("W/epoch_2.pth", out="d")["coco/bbox_mAP"] == expected["coco/bbox_mAP"]
    assert "coco/segm_mAP" not in expected
    assert not any("Changed since" in line for line in reported)
    reported.clear()
    named = ["--cfg-options", "data_root=other"]
    other = [scores_of(NAME, "W", *named, out="e"), scores_of("W", *named, out="f")]
    assert other[0]["coco/bbox_mAP"] == other[1]["coco/bbox_mAP"]
    for line in (reported[1], reported[2]):
        assert "Changed since the run was started:" in line
        assert [cell.strip() for cell in line.splitlines()[2].split("|")] == [
            "test_dataloader.dataset.data_root", "mine/", "other/",
        ]  # fmt: skip


def test_resume_of_one_of_before_names_its_data(here, capsys):
    (dump,) = Path("W").glob("*.py")
    dump.write_text(dump.read_text().partition("\nstarted_with")[0])
    said = refused(capsys, train, NAME, "--work-dir", "W", "--resume")
    assert "differs from that of the run (W/" in said
    assert "data: " in said or "data, " in said
    assert not (here / "data").exists()  # where synthetic shapes would be


def test_a_moved_run_and_one_of_before(here, reported):
    Path("W").rename("elsewhere")
    expected = scores_of("elsewhere", out="a")
    assert scores_of(NAME, "elsewhere", out="b")["coco/bbox_mAP"] == expected["coco/bbox_mAP"]
    image = str(next(Path("mine/val2017").iterdir()))
    run(predict, "elsewhere", image, "--config", NAME, "--json", "a.json", "--no-images")
    resume = ["--resume", "elsewhere", "--cfg-options", "train_cfg.max_epochs=3"]
    run(train, NAME, "--work-dir", "elsewhere", *resume)
    assert find_run("elsewhere/epoch_3.pth").config["data_root"] == "mine/"
    assert not Path("W").exists()
    (dump,) = Path("elsewhere").glob("*.py")
    dump.write_text(dump.read_text().partition("\nstarted_with")[0])
    assert find_run("elsewhere") is None
    reported.clear()
    given = ["data_root=mine", "classes=auto", "with_mask=False", "image_size=64", SMALL]
    scores_of(NAME, "elsewhere", "--cfg-options", *given, out="c")
    assert "elsewhere does not say what its training was started with" in reported[0]


def test_predictions_with_its_config(here, reported):
    """Also where the data are no longer there."""
    shutil.rmtree("mine")
    image = next(Path("other/val2017").iterdir())
    for index, arguments in enumerate((["W"], ["W", "--config", NAME], ["W/epoch_2.pth", "--config", NAME])):
        out = f"{index}.json"
        run(predict, *arguments[:1], str(image), *arguments[1:], "--json", out, "--score", "0", "--no-images")
    found = [json.loads(Path(f"{index}.json").read_text()) for index in range(3)]
    assert [category["name"] for category in found[0]["categories"]] == ["nut", "bolt", "gear"]
    assert found[0]["annotations"]
    assert found[0] == found[1] == found[2]


def test_a_report_is_of_one_run(here):
    """A test leaves the training's config as it was, and the report has the training's settings."""
    before = {path: path.read_text() for path in Path("W").glob("*.py")}
    run(test, NAME, "W", "--work-dir", "W", "--report", "--cfg-options", "train_cfg.max_epochs=66")
    assert {path: path.read_text() for path in Path("W").glob("*.py")} == before
    page = check_page(Path("W/report.html").read_text()).text
    assert "2 epochs" in page
    assert "66 epochs" not in page
    run(train, NAME, "--work-dir", "W", "--resume", "--cfg-options", *CHANGED)
    run(analyze, "W")
    page = check_page(Path("W/report.html").read_text()).text
    assert "4 epochs" in page
    assert "train_dataloader.batch_size24" in page  # what was changed: was, now
    assert "Best F1" in page
    # A new training in the same folder has nothing of the older one.
    more = options("data_root=mine", "classes=auto", "image_size=64", "train_cfg.max_epochs=1")
    run(train, NAME, "--work-dir", "W", *more)
    assert max(read_log("W").steps) == 4
    assert len(read_log("W").starts) == 1
    points = json.loads(Path("W/validations.json").read_text())
    assert [point["iteration"] for point in points] == [4]
    run(analyze, "W")
    page = check_page(Path("W/report.html").read_text()).text
    assert "1 epochs" in page
    assert "Best F1" not in page
    assert "train_dataloader.batch_size24" not in page
    run(analyze, "data", "W", "--out", "data.html")
    assert "nut" in check_page(Path("data.html").read_text()).text
