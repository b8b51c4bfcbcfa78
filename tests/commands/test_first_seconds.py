"""What a command imports before its work begins: counted, as times are noisy."""

import json
import subprocess
import sys

import pytest
from conftest import REPOSITORY

import make_configs
from localvit.__main__ import COMMANDS
from localvit.arguments import data, models
from localvit.commands import analyze as analysis
from localvit.commands.listings import WEIGHTS_FILE
from localvit_det.analysis.coco import MEASURES
from localvit_det.config.pipelines import SCORE
from localvit_det.config_names import config_folder
from localvit_det.export.formats import FORMATS

NAME = "mask_rcnn_shuffle_nano_shapes"
FAR = f"{REPOSITORY}/configs/metafiles/swin.yml"  # a file that exists
# Runs every list of arguments in one process, which imports nothing heavy as long as nothing is left behind.
RUN = """
import contextlib, io, json, runpy, sys
from localvit.__main__ import main
for name in {absent}:
    sys.modules[name] = None  # as if it were not installed
for argv in {runs}:
    out, code = io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            if argv[0].endswith(".py"):
                runpy.run_path(argv[0])["main"](argv[1:])
            else:
                main(argv)
        except SystemExit as stop:
            code = stop.code or 0
    packages = ("localvit_det", "torch", "mmengine", "mmdet", "mmcv", "cv2", "numpy", "matplotlib", "PIL")
    heavy = [name for name in packages if sys.modules.get(name)]
    print(json.dumps([code, out.getvalue(), heavy, len(sys.modules)]))
"""


def runs(*argvs: list[str], absent: tuple[str, ...] = ()) -> list[tuple[int, str, list[str], int]]:
    """Exit code, output, heavy packages and number of modules after each."""
    code = RUN.format(runs=list(argvs), absent=list(absent))
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_help_and_listings_import_neither_pytorch_nor_mmdetection():
    verbs = [["analyze", verb, "--help"] for verb in data.VERBS]
    wrappers = [[f"tools/{name}.py", "--help"] for name in ("train", "test", "check_data", "publish_model", "pretrain")]
    helps = [[name, "--help"] for name in COMMANDS] + verbs + wrappers
    listings = [["configs"], ["configs", "shuffle", "--json"], ["weights"], ["weights", "--json"]]
    for argv, (code, out, heavy, count) in zip([*helps, *listings], runs(*helps, *listings), strict=True):
        assert (code, heavy) == (0, []), argv
        assert "usage: localvit" in out if "--help" in argv else len(out.splitlines()) > 10, argv
        assert count < 350, argv  # of the standard library, packaging, yaml


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["train", "mask_rcnn_shufle_nano_shapes"], f"did you mean '{NAME}'"),
        (["train", NAME, "--load-from", "none.pth"], "--load-from"),
        (["train", NAME, "--pretrained", "none.pth#model_ema"], "--pretrained"),
        (["train", NAME, "--resume", "none.pth"], "--resume"),
        (["train", NAME, "--log", "wandb"], "pip install wandb"),
        (["test", NAME, "none.pth"], "none.pth does not exist"),
        (["test", NAME, FAR, "--fast-eval"], "pip install faster-coco-eval"),
        (["predict", FAR, "none.jpg"], "none.jpg does not exist"),
        (["predict", FAR, "https://example.com/a.jpg", "none*.jpg", "0", "--every", "0"], "--every 0 makes no sense"),
        (["export", FAR, "--out", "a.onnx"], "pip install onnx"),
        (["export", FAR, "--out", "a.xml", "--int8", "--calibration", "x"], "pip install nncf"),
        (["publish", "none.pth"], "none.pth does not exist"),
        (["convert", "none.pth", "a.pth"], "none.pth does not exist"),
        (["check", "none.py"], "none.py does not exist"),
        (["analyze", "none"], "none is neither a folder"),
        (["analyze", "results", "none.json", "--annotations", FAR], "none.json does not exist"),
        (["analyze", "field", "none.pth"], "none.pth does not exist"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_in_what_is_typed_is_told_at_once(argv, words, missing):
    code, out, heavy, _ = missing(argv)
    assert (code, heavy) == (1, [])
    assert words in out
    assert out.startswith("error: ")
    assert out.count("\n") == 1


@pytest.fixture(scope="module")
def missing():
    """One process for all mistakes."""
    marks = test_a_mistake_in_what_is_typed_is_told_at_once.pytestmark
    argvs = [argv for argv, _ in marks[0].args[1]]
    absent = ("wandb", "faster_coco_eval", "nncf", "onnx")
    found = dict(zip(map(tuple, argvs), runs(*argvs, absent=absent), strict=True))
    return lambda argv: found[tuple(argv)]


def test_a_missing_library_is_told_at_once():
    (code, out, heavy, _), doctor = runs(["train", NAME], ["doctor", "--help"], absent=("mmdet",))
    assert (code, heavy, doctor[0]) == (1, [], 0)
    assert "mmdet is not installed: run `pip install mmdet" in out


def test_what_arguments_know_is_what_the_library_has():
    assert list(analysis.VERBS) == list(data.VERBS)
    assert list(MEASURES) == list(data.MEASURES)
    assert models.SCORE == SCORE
    assert {name: one.needs for name, one in FORMATS.items() if one.needs} == models.NEEDS
    assert {one.suffix: name for name, one in FORMATS.items() if one.needs} == models.ENDINGS


def test_the_table_of_weights_is_current():
    assert (config_folder() / WEIGHTS_FILE).read_text() == make_configs.official_weights()


@pytest.mark.parametrize("arguments", ["configs", "weights", "train --help", "configs --json"])
def test_a_reader_that_goes_away_is_no_mistake(arguments):
    command = f"set -o pipefail; {sys.executable} -m localvit {arguments} | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
