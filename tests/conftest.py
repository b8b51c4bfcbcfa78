"""Shared fixtures and the list of registered backbones that the contract tests run over."""

import copy
import functools
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from made_results import evaluation, results  # noqa: F401 - fixtures
from mmengine.config import Config
from mmengine.config import config as config_module
from mmengine.config import utils as config_utils
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import runner as runner_module
from mmengine.visualization import Visualizer
from preflight_cases import load, logged  # noqa: F401 - fixtures

import localvit_det  # noqa: F401 - registers everything

# `pytest -n 2` runs a test on each of two cores; two threads in both would wait for each other.
THREADS = 1 if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)) > 1 else 2
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))  # of processes that tests start
torch.set_num_threads(min(THREADS, torch.get_num_threads()))
cv2.setNumThreads(0)  # nor has OpenCV any, which a forked process would wait for
os.environ.setdefault("LOCALVIT_PROCESS", "plain")  # tools imported here shall not change the process of the tests
REPOSITORY = Path(__file__).parent.parent

# What MMEngine does over and over, and no test here is about: lining up the text of a config, looking for an installed
# package, reading all its indices to find a `_base_` in it, and asking the system for its compilers.
if hasattr(config_module, "FormatCode"):  # OneDL's MMEngine has it elsewhere
    config_module.FormatCode = lambda text, **_: (text, True)
config_module.is_installed = functools.cache(config_module.is_installed)
config_module.get_installed_path = functools.cache(config_module.get_installed_path)
config_utils.load = functools.cache(config_utils.load)
runner_module.collect_env = functools.cache(runner_module.collect_env)


def _read_once(read: Callable[..., tuple]) -> Callable[..., tuple]:
    """Let MMEngine read the repository's own configs once: each is written anew to a folder for every child of it."""
    read_ours = functools.cache(read)

    def read_or_copy(filename: str, *args: object, **kwargs: object) -> tuple:
        if REPOSITORY / "configs" in Path(filename).parents:
            return copy.deepcopy(read_ours(str(filename), *args, **kwargs))
        return read(filename, *args, **kwargs)

    return read_or_copy


Config._file2dict = staticmethod(_read_once(Config._file2dict))


@functools.cache
def _figure(make: Callable[..., tuple], settings: frozenset) -> tuple:
    return make(None, dict(settings))


def _one_figure(make: Callable[..., tuple]) -> Callable[..., tuple]:
    """Let all visualizers draw into one figure: MMEngine makes one for each runner, and clears it for each image."""
    return lambda self, settings: _figure(make, frozenset(settings.items()))


Visualizer._initialize_fig = _one_figure(Visualizer._initialize_fig)


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collection: MMEngine's datasets collect, and each took 0.3 s."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no GPU")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _open_screen() -> None:
    """Loggers of MMEngine live on, where pytest closes the screen of the test in which one was made."""
    for logger in MMLogger._instance_dict.values():
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler and handler.stream.closed:
                handler.stream = sys.stdout


def forget_visualizers(kind: type[Visualizer] = Visualizer) -> None:
    """Let the next run make its own: MMEngine keeps one of a name, with its folder, for the life of a process."""
    kind._instance_dict.clear()
    for one in kind.__subclasses__():
        forget_visualizers(one)


@pytest.fixture(autouse=True)
def _own_visualizers() -> None:
    forget_visualizers()


@pytest.fixture(autouse=True)
def _mmdet_scope() -> None:
    init_default_scope("mmdet")  # as default_scope in every config does


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of the test's own, for copies and downloads."""
    monkeypatch.setenv("LOCALVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """Run a command that must end with exit code 1 and no traceback; return what it says on stderr."""

    def run(main: Callable[[list[str]], object], *arguments: object) -> str:
        with pytest.raises(SystemExit) as stop:
            main([*map(str, arguments)])
        said = capsys.readouterr()
        assert (stop.value.code, "Traceback" in said.err + said.out) == (1, False), said.err
        return said.err

    return run


def few(values: Iterable, *kept: object) -> list:
    """Return parameters of a test, of which all but those kept are for the slow tests."""
    return [pytest.param(value, marks=() if value in kept else pytest.mark.slow) for value in values]


def lines_logged_by(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> list[str]:
    """Return the list that gets what modules log; the screen's logger of a process is the one of its first run."""
    lines: list[str] = []
    for module in modules:
        monkeypatch.setattr(module, "print_log", lambda message, *_: lines.append(message))
    return lines


@pytest.fixture(scope="session")
def published_file(tmp_path_factory) -> Path:
    """A published file of a nano detector that has learned nothing."""
    from predict_cases import published

    return published(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """A folder with four images of synthetic shapes, one of them in a folder of its own."""
    from localvit_det.datasets.synthetic_shapes import make_shapes

    root = make_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=3, num_val=1, size=96)
    (root / "train2017").rename(folder := root / "images")
    (folder / "deeper").mkdir()
    content = cv2.imread(str(next(folder.glob("*.jpg"))))
    cv2.imwrite(str(folder / "deeper/small.png"), content[:64, :80])
    return folder


@pytest.fixture(scope="session")
def video(tmp_path_factory, images) -> Path:
    """A video of five frames, ten a second."""
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 96))
    picture = cv2.imread(str(next(images.glob("*.jpg"))))
    for shift in range(5):
        writer.write(np.roll(picture, 8 * shift, axis=1))
    writer.release()
    return path


@pytest.fixture
def coco_root() -> Path:
    """A folder with real COCO images: $LOCALVIT_COCO, or shared/data/coco50 next to the repository."""
    root = Path(os.environ.get("LOCALVIT_COCO", REPOSITORY.parent / "shared/data/coco50"))
    if not (root / "annotations/instances_train2017.json").is_file():
        pytest.skip(f"no COCO images at {root}; set LOCALVIT_COCO to a folder in COCO's layout")
    return root
