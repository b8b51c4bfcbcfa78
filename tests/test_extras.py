"""Optional libraries that are missing are named with the command that installs them."""

import importlib.util
import sys

import pytest
from conftest import REPOSITORY

from localvit_det.config import load_config
from localvit_det.errors import RequirementError
from localvit_det.requirements import EXTRAS, distribution, require


@pytest.fixture
def hidden(monkeypatch, tmp_path):
    """Puts a package with the given source in a library's place."""

    def hide(module: str, source: str) -> None:
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").write_text(source)
        for name in [name for name in sys.modules if name.partition(".")[0] == module]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(tmp_path)

    return hide


@pytest.mark.parametrize("module", EXTRAS)
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_thing", "is installed, but no_such_thing, which it needs, is not: run `pip install no_such"),
        ("assert False, 'MMCV==9 is used'", "cannot be imported \\(MMCV==9 is used\\)"),
    ],
)
def test_broken(hidden, module, source, words):
    hidden(module, source)
    package, extra = distribution(module)
    with pytest.raises(RequirementError, match=rf"{package} {words}.*\[{extra}\]"):
        require(module)
    sys.modules.pop(module, None)


@pytest.mark.parametrize(
    ("module", "config"), [("mmseg", "upernet_shuffle_t_ade20k"), ("mmpretrain", "pretrain/gg_t_in1k")]
)
def test_missing(module, config):
    if importlib.util.find_spec(module) is not None:
        pytest.skip(f"{module} is installed")
    package, extra = distribution(module)
    with pytest.raises(RequirementError, match=rf"{package} is not installed.*pip install '\.\[{extra}\]'"):
        load_config(REPOSITORY / f"configs/{config}.py")
