"""The pages on what goes wrong, and on right numbers, name tests that exist."""

import ast
import re
from functools import cache

import pytest
from conftest import REPOSITORY

PAGE = (REPOSITORY / "docs/reliability.md").read_text(encoding="utf-8")
CORRECTNESS = (REPOSITORY / "docs/correctness.md").read_text(encoding="utf-8")
CITED = sorted(set(re.findall(r"`((?:\w+/)?test_\w+\.py)::([\w:]+)`", PAGE + CORRECTNESS)))


@cache
def names_in(file: str) -> set[str]:
    """Names of a file's tests, those of classes as pytest writes them."""
    path = REPOSITORY / "tests" / file
    path = path if path.exists() else path.with_name("engine") / file
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return names


@pytest.mark.parametrize(("file", "name"), CITED, ids=[name for _, name in CITED])
def test_cited_test_exists(file, name):
    assert name in names_in(file)
    assert name.rpartition("::")[2].startswith("test_")


def test_every_case_has_a_proof():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    cases = [row for row in rows if not row.startswith(("| case ", "| ---", "| what ", "| measured "))]
    proofs = [row for row in cases if row.count("|") == 4 and "test_" in row]
    assert len(proofs) > 45
    missing = [row for row in cases if row.count("|") == 4 and "test_" not in row.split("|")[3]]
    assert missing == []


def test_every_row_on_right_numbers_has_a_proof():
    rows = [
        line for line in CORRECTNESS.splitlines() if line.startswith("| ") and not line.startswith(("| case", "| ---"))
    ]
    assert len(rows) > 120
    assert [row for row in rows if "test_" not in re.split(r"(?<!\\)\|", row)[4]] == []
