"""Facts of the families in the README are those of the code."""

import pytest
from conftest import REPOSITORY
from families import FAMILIES
from mmdet.registry import MODELS

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FAMILIES)
def test_family_stands_in_the_readme(name):
    family = MODELS.get(name)
    row = next(line for line in README.splitlines() if line.startswith("|") and f"`{name}`" in line)
    assert ", ".join(family.arch_settings) in row
    assert family.paper[1] in README
