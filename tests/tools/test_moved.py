"""Commands that have moved say their new form in one sentence."""

import runpy

import pytest
from conftest import REPOSITORY

import _moved


@pytest.mark.parametrize("name", _moved.NEW)
def test_old_command_says_the_new_one(name):
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(REPOSITORY / f"tools/{name}.py"))
    sentence = str(stop.value.code)
    assert sentence.startswith(f"error: tools/{name}.py has moved: run `")
    assert sentence.count("`") % 2 == 0
