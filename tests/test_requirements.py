"""A missing or unfitting package is named in one sentence, with the command that fixes it."""

import importlib.util
import sys
from types import ModuleType

import pytest
from conftest import REPOSITORY

from localvit_det import requirements
from localvit_det.config import load_config
from localvit_det.errors import RequirementError
from localvit_det.requirements import EXTRAS, check_requirements, distribution, has_compiled_operators, require


def refusal() -> str:
    """The sentence of the failing check."""
    with pytest.raises(RequirementError) as caught:
        check_requirements()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def installed(monkeypatch: pytest.MonkeyPatch, onedl: bool) -> None:
    """Lets MMDetection or its fork be installed, with all that it needs."""
    monkeypatch.setattr(requirements, "is_onedl", lambda: onedl)
    for requirement in requirements.requirements():
        module = ModuleType(requirement.module)
        module.__version__ = requirement.at_least
        monkeypatch.setitem(sys.modules, requirement.module, module)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Puts a package with the given source in the place of an installed one."""
    names = []

    def put(name: str, source: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        for module in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
            monkeypatch.delitem(sys.modules, module)
        names.append(name)

    yield put
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def extension(tmp_path, monkeypatch):
    """Puts a module with the given source in the place of mmcv._ext."""

    def put(source: str) -> None:
        import mmcv

        (tmp_path / "_ext.py").write_text(source)
        monkeypatch.setattr(mmcv, "__path__", [str(tmp_path), *mmcv.__path__])
        monkeypatch.delitem(sys.modules, "mmcv._ext")

    return put


def test_this_installation_fits():
    check_requirements()


def test_the_networks_need_two_packages(monkeypatch):
    for name in ("mmcv", "mmdet"):
        monkeypatch.setitem(sys.modules, name, None)
    requirements.check_networks()
    monkeypatch.setitem(sys.modules, "mmengine", None)
    with pytest.raises(RequirementError, match="mmengine is not installed: run `pip install"):
        requirements.check_networks()


@pytest.mark.parametrize(
    ("onedl", "name", "command"),
    [
        (False, "torch", 'pip install --upgrade "torch>=2.6" torchvision'),
        (False, "mmengine", "pip install mmengine==0.10.7"),
        (False, "mmcv", "pip install mmcv-lite==2.1.0"),
        (False, "mmdet", "pip install mmdet==3.3.0"),
        (True, "mmengine", "pip install onedl-mmengine==0.10.12"),
    ],
)
def test_missing(monkeypatch, onedl, name, command):
    installed(monkeypatch, onedl)
    monkeypatch.setitem(sys.modules, name, None)
    assert refusal() == f"{name} is not installed: run `{command}`."


@pytest.mark.parametrize(
    ("onedl", "name", "version", "word"),
    [
        (False, "torch", "2.5.1+cpu", "old"),
        (False, "mmengine", "0.7.1", "old"),
        (False, "mmengine", "1.0.0", "new"),
        (False, "mmcv", "1.7.2", "old"),
        (False, "mmcv", "2.2.0", "new"),
        (False, "mmdet", "2.28.2", "old"),
        (False, "mmdet", "4.0.0", "new"),
        # The fork needs what is too new for MMDetection itself.
        (True, "mmengine", "0.10.7", "old"),
        (True, "mmcv", "2.1.0", "old"),
        (True, "mmcv", "2.4.0", "new"),
        (True, "mmdet", "3.3.0", "old"),
        (True, "mmdet", "3.6.0", "new"),
    ],
)
def test_wrong_version(monkeypatch, onedl, name, version, word):
    installed(monkeypatch, onedl)
    monkeypatch.setattr(sys.modules[name], "__version__", version)
    sentence = refusal()
    assert sentence.startswith(f"{name} {version} is too {word} ")
    assert ("pip install onedl-" in sentence) == onedl
    # Several distributions own the folder of each but torch.
    assert ("`pip uninstall -y " in sentence) == (name != "torch")


@pytest.mark.parametrize("names", [(), ("onedl_mmdetection",)])
def test_fork_is_told_by_its_distribution(monkeypatch, tmp_path, names):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in names:
        (tmp_path / f"{name}-3.5.1.dist-info").mkdir()
        (tmp_path / f"{name}-3.5.1.dist-info/METADATA").write_text("Name: onedl-mmdetection\nVersion: 3.5.1\n")
    assert requirements.is_onedl() == bool(names)
    assert (requirements.requirements() == requirements.ONEDL) == bool(names)


@pytest.mark.parametrize("version", ["2.6.0", "2.6.0a0+ecf3bae", "2.15.0+cu130"])
def test_torch_versions_of_vendors_pass(monkeypatch, version):
    import torch

    monkeypatch.setattr(torch, "__version__", version)
    check_requirements()


def test_package_that_fails_to_import(package):
    package("mmdet", "assert False, 'MMCV==9 is used but incompatible.'")
    assert "mmdet is installed but cannot be imported (MMCV==9 is used but incompatible):" in refusal()


def test_compiled_mmcv_for_another_torch(extension):
    extension("raise ImportError('_ext.so: undefined symbol: _ZN3c105Error')")
    sentence = refusal()
    assert "compiled operators of mmcv do not load" in sentence
    assert "undefined symbol" in sentence
    assert "pip uninstall -y mmcv mmcv-lite onedl-mmcv && pip install " in sentence


def test_compiled_mmcv_that_loads_needs_no_torchvision(extension, monkeypatch):
    extension("")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert has_compiled_operators()
    check_requirements()


def test_torchvision_missing(monkeypatch):
    monkeypatch.setattr(requirements, "has_compiled_operators", lambda: False)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert "torchvision is not installed" in refusal()


@pytest.mark.parametrize(
    "source",
    [
        "raise RuntimeError('operator torchvision::nms does not exist')",
        "raise RuntimeError('Detected that PyTorch and torchvision were compiled with different CUDA')",
        "class ops:\n    def nms(*_):\n        raise RuntimeError('Could not load custom ops.\\n(detail)')",
    ],
)
def test_torchvision_for_another_torch(monkeypatch, package, source):
    monkeypatch.setattr(requirements, "has_compiled_operators", lambda: False)
    package("torchvision", source)
    sentence = refusal()
    assert "operators of torchvision do not load with torch" in sentence
    assert "`pip install --force-reinstall torch torchvision`" in sentence


# ------------------------------------------------------------------------------------------------ optional libraries


@pytest.mark.parametrize("module", EXTRAS)
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_thing", "is installed, but no_such_thing, which it needs, is not: run `pip install no_such"),
        ("assert False, 'MMCV==9 is used'", "cannot be imported \\(MMCV==9 is used\\)"),
    ],
)
def test_broken_extra(package, module, source, words):
    package(module, source)
    name, extra = distribution(module)
    with pytest.raises(RequirementError, match=rf"{name} {words}.*\[{extra}\]"):
        require(module)


@pytest.mark.parametrize(
    ("module", "config"), [("mmseg", "upernet_shuffle_t_ade20k"), ("mmpretrain", "pretrain/gg_t_in1k")]
)
def test_missing_extra(module, config):
    if importlib.util.find_spec(module) is not None:
        pytest.skip(f"{module} is installed")
    package, extra = distribution(module)
    with pytest.raises(RequirementError, match=rf"{package} is not installed.*pip install '\.\[{extra}\]'"):
        load_config(REPOSITORY / f"configs/{config}.py")
