"""The table of what is changed in other libraries: for each row the fault without it, and what is right with it."""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import mmengine.config.utils
import pytest
import torch
from coco_folder import dataset_config, write_coco
from conftest import REPOSITORY
from mmdet.models.task_modules.prior_generators import MlvlPointGenerator
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.fileio import LocalBackend
from mmengine.logging import HistoryBuffer
from mmengine.model import PretrainedInit
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner import CheckpointLoader, load_checkpoint
from torch import nn

from localvit_det import errors, files, patches
from localvit_det.backbones import ShuffleTransformer
from localvit_det.datasets.load_image import protect_loading
from localvit_det.requirements import has_compiled_operators

NAMES = [patch.name for patch in patches.PATCHES]


def on_and_off(name: str) -> Iterator[tuple[bool, Any]]:
    """Yield whether the row is applied, and the context in which it is or not."""
    yield True, nullcontext()
    yield False, patches.without(name)


def raises_or_not(fails: bool, *kinds: type[BaseException]) -> Any:
    return pytest.raises(kinds) if fails else nullcontext()


def test_every_row_is_complete():
    # At most eight, and the loader of images, which takes another one's name in a registry and so has to be here.
    assert len(NAMES) == len(set(NAMES)) <= 9
    assert set(patches._applied) == set(NAMES)
    for patch in patches.PATCHES:
        texts = (patch.what, patch.why, patch.source, patch.versions, patch.until)
        assert all(text and "|" not in text for text in texts)


def test_the_docs_have_the_table():
    assert patches.table() in (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8")


def test_applying_twice_changes_nothing():
    before = {name: list(there) for name, there in patches._applied.items()}
    put, extension = LocalBackend.put, sys.modules["mmcv._ext"]
    patches.apply()
    assert {name: list(there) for name, there in patches._applied.items()} == before
    assert (LocalBackend.put, sys.modules["mmcv._ext"]) == (put, extension)


@pytest.mark.parametrize("name", NAMES)
def test_each_is_off_by_the_environment(name, monkeypatch):
    monkeypatch.setattr(patches, "_applied", {})
    applied = []
    monkeypatch.setattr(patches, "_apply", lambda patch: applied.append(patch.name))
    monkeypatch.setenv(patches.VARIABLE, f" {name},")
    patches.apply()
    assert applied == [other for other in NAMES if other != name]


def test_all_are_off_by_the_environment(monkeypatch):
    monkeypatch.setattr(patches, "_applied", {})
    monkeypatch.setenv(patches.VARIABLE, "all")
    patches.apply()
    assert not patches._applied


def test_a_misspelt_name_in_the_environment(monkeypatch):
    monkeypatch.setenv(patches.VARIABLE, "coordinate")
    with pytest.raises(
        errors.RequirementError, match=r"names coordinate, which is none of .*did you mean 'coordinates'"
    ):
        patches.apply()


@pytest.mark.parametrize("name", NAMES)
def test_taking_back_leaves_no_trace(name):
    """What stands in the other library without a row is its own, and comes back with it."""

    def there() -> list[Any]:
        return [
            owner.get(key) if isinstance(owner, dict) else vars(owner).get(key)
            for owner, key, _ in patches._applied[name]
        ]

    places = [(owner, key) for owner, key, _ in patches._applied[name]]
    with_it = there()
    with patches.without(name):
        assert name not in patches._applied
        for (owner, key), ours in zip(places, with_it, strict=True):
            now = owner.get(key) if isinstance(owner, dict) else vars(owner).get(key)
            assert now is not ours
    assert [(owner, key) for owner, key, _ in patches._applied[name]] == places
    sys.modules.update({key: ours for (owner, key), ours in zip(places, with_it, strict=True) if owner is sys.modules})


# ------------------------------------------------------------------------------------------------ one by one


@pytest.mark.skipif(has_compiled_operators(), reason="mmcv has compiled operators")
def test_operators_where_none_are_compiled():
    ours = sys.modules["mmcv._ext"]
    for on, context in on_and_off("operators"):
        with context, raises_or_not(not on, ModuleNotFoundError):
            importlib.import_module("mmcv._ext")
    sys.modules["mmcv._ext"] = sys.modules["mmcv"]._ext = ours  # the one that mmcv.ops has


def test_operators_compiled_for_one_layout(monkeypatch):
    """A compiled RoIAlign reads memory in its order, whatever the strides say."""
    module = ModuleType("mmcv._ext")
    module.roi_align_forward = lambda x, rois, output: output.copy_(
        x.as_strided(x.shape, x.new_empty(x.shape).stride())
    )
    monkeypatch.setitem(sys.modules, "mmcv._ext", module)
    monkeypatch.setattr(patches, "has_compiled_operators", lambda: True)
    x = torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    x = x.as_strided(x.shape, x.stride())
    output = torch.empty(1, 2, 3, 4)

    def forward() -> torch.Tensor:
        module.roi_align_forward(x, torch.zeros(1, 5), output)
        return output

    ((_, name, fixed),) = patches._operators()
    monkeypatch.setattr(module, name, fixed)
    assert torch.equal(forward(), x)


def test_panopticapi(monkeypatch, tmp_path):
    if importlib.util.find_spec("panopticapi").loader is not None:
        pytest.skip("panopticapi is installed")
    for on, context in on_and_off("panopticapi"):
        with context, raises_or_not(not on, ModuleNotFoundError):
            from panopticapi.utils import rgb2id

            assert rgb2id([1, 1, 0]) == 257
    # One that is installed is left alone.
    (tmp_path / "panopticapi").mkdir()
    (tmp_path / "panopticapi/__init__.py").write_text("")
    for name in [name for name in sys.modules if name.startswith("panopticapi")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    assert not list(patches._panopticapi())


def test_coordinates():
    generator = MlvlPointGenerator([8], offset=0.37)
    exact = generator.grid_priors([(100, 160)], device="cpu")[0]
    for on, context in on_and_off("coordinates"):
        with context:
            points = generator.grid_priors([(100, 160)], dtype=torch.bfloat16, device="cpu")[0]
        assert ((points.float() - exact).abs().max() > 1) is not on or on
        assert torch.equal(points.float(), exact) is on


def test_checkpoint_files(tmp_path):
    file = tmp_path / "epoch_1.pth"
    net = nn.Linear(2, 2)
    torch.save({"state_dict": net.state_dict(), "message_hub": {"loss": HistoryBuffer()}}, file)
    for on, context in on_and_off("checkpoint_files"):
        with context, raises_or_not(not on, Exception):
            load_checkpoint(nn.Linear(2, 2), str(file))


def test_checkpoint_fit():
    net = ShuffleTransformer(embed_dims=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8))
    from mmengine.runner import checkpoint

    for on, context in on_and_off("checkpoint_fit"):
        with context, raises_or_not(on, errors.CheckpointError):  # without: a line in the log, and random weights
            checkpoint.load_state_dict(net, {"nothing.weight": torch.zeros(1)})


def test_pretrained(tmp_path):
    torch.save({"weight": torch.ones(2, 2)}, tmp_path / "part.pth")
    init = {"type": "Pretrained", "checkpoint": str(tmp_path / "part.pth"), "partial": True}
    for on, context in on_and_off("pretrained"):
        with context, raises_or_not(not on, TypeError):
            WEIGHT_INITIALIZERS.build(init)
    assert issubclass(WEIGHT_INITIALIZERS.get("Pretrained"), PretrainedInit)


@pytest.mark.parametrize("ending", ["json", "pth"])
def test_whole_files(ending, tmp_path, monkeypatch):
    file = tmp_path / f"output.{ending}"
    file.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for on, context in on_and_off("whole_files"):
        with context, monkeypatch.context() as disk:
            disk.setattr(files.os, "replace", fail)
            with raises_or_not(on, OSError, errors.OutputError):
                LocalBackend().put(b"new", str(file))
        assert (file.read_text() == "old") is on  # without: the file is written in place, and may end in the middle
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_config_names(tmp_path):
    config = tmp_path / "own.py"
    config.write_text('_base_ = "localvit_det::mask_rcnn_shuffle_nano_shapes.py"\n')
    for on, context in on_and_off("config_names"):
        with context, raises_or_not(not on, ValueError, AssertionError):
            assert Config.fromfile(config).model.type == "MaskRCNN"


def test_configs_of_other_packages_are_found_without_metafiles(monkeypatch):
    """In the same place, and of the same scope; what is missing is MMEngine's to report."""
    read = []
    original = mmengine.config.utils.load
    monkeypatch.setattr(mmengine.config.utils, "load", lambda path: read.append(path) or original(path))
    found = {}
    for on, context in on_and_off("config_names"):
        with context:
            found[on] = Config._get_cfg_path("mmdet::_base_/default_runtime.py", "here.py")
            assert bool(read) is not on
            with pytest.raises(FileNotFoundError):
                Config._get_cfg_path("mmdet::_base_/none.py", "here.py")
        read.clear()
    assert Path(found[True][0]).samefile(found[False][0])
    assert found[True][1] == found[False][1] == "mmdet"


def test_image_files(tmp_path):
    """What a run of ours survives; without a run it is as without the row: tests/test_plain_projects.py."""
    root = write_coco(tmp_path)
    (root / "train2017/001.jpg").write_bytes(b"no image")
    for on, context in on_and_off("image_files"):
        with context:
            dataset = DATASETS.build(dataset_config(root))
        assert bool(protect_loading(dataset, {})) is on
        with raises_or_not(not on, AssertionError):
            assert dataset[0]["data_samples"].img_path != str(root / "train2017/001.jpg")


def test_networks_alone_get_two_rows(monkeypatch):
    """Without MMDetection there is nothing to change but how our networks read their weights."""
    monkeypatch.setattr(patches, "_applied", {})
    monkeypatch.setattr(patches, "has_mmdetection", lambda: False)
    kinds = WEIGHT_INITIALIZERS.module_dict
    monkeypatch.setitem(kinds, "Pretrained", kinds["Pretrained"])
    monkeypatch.setattr(CheckpointLoader, "_schemes", CheckpointLoader._schemes)
    patches.apply()
    assert list(patches._applied) == ["checkpoint_files", "pretrained"]
    assert kinds["Pretrained"].__module__ == "localvit_det.checkpoint.loading"


def test_nothing_else_is_changed():
    """No file of the package assigns to what another library owns, or registers in the place of others."""
    package = Path(patches.__file__).parent
    found = []
    for file in package.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        foreign = set()
        for node in ast.walk(tree):
            if (isinstance(node, ast.ImportFrom) and not node.level) or isinstance(node, ast.Import):
                foreign |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        for node in ast.walk(tree):
            where = f"{file.relative_to(package).as_posix()}: "
            if isinstance(node, ast.keyword) and node.arg == "force" and ast.unparse(node.value) == "True":
                found.append(f"{where}force")
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.meta_path":
                found.append(where + ast.unparse(node))
            for target in node.targets if isinstance(node, ast.Assign) else []:
                root = target
                while isinstance(root, (ast.Attribute, ast.Subscript)):
                    root = root.value
                if isinstance(root, ast.Name) and root is not target and root.id in foreign:
                    found.append(where + ast.unparse(target))
    assert sorted(found) == ALLOWED


ALLOWED = [
    # What `--device` names, as one would set it in the shell.
    "cli.py: os.environ['CUDA_VISIBLE_DEVICES']",
    # Former modules of this package.
    "deprecation.py: sys.modules[whole]",
    # What a training sets in its own process and its data workers: docs/architecture.md.
    "engine/data_loader.py: multiprocessing.queues.Queue._on_queue_feeder_error",
    "engine/data_loader.py: signal_handling._SIGCHLD_handler_set",
    # What MMPretrain registers as `LoadImageFromFile`, where a config imports `localvit_det.pretraining`.
    "pretraining.py: force",
]
