"""The table of stacks: it tells what was run and what was not, and never more."""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import REPOSITORY

import matrix
from stacks.table import LIBRARIES, PYTHONS, TORCHES, page, stacks

VERSIONS = {"python": "3.12.1", "torch": "2.6.0+cu124", "torchvision": "0.21.0", "numpy": "2.2.6"}
VERSIONS |= {"mmdet": "3.3.0", "mmengine": "0.10.7", "mmcv": "2.1.0"}


def test_page_follows_from_the_record():
    assert (REPOSITORY / "docs/stacks.md").read_text(encoding="utf-8") == page(matrix.read_record())


def test_every_python_and_torch_of_setup_is_tried_with_both_libraries():
    every = stacks()
    assert len({stack.name for stack in every}) == len(every)
    for library in LIBRARIES:
        assert {stack.python for stack in every if stack.library == library} == set(PYTHONS)
        assert {stack.compiled for stack in every if stack.library == library} == {True, False}
    assert {(stack.python, stack.torch) for stack in every} == {(p, t) for p in PYTHONS for t in TORCHES}


def test_page_tells_passed_failed_and_not_run():
    record = {
        "py3.12-torch2.6-mmdet": dict(
            versions=VERSIONS, tests="9 passed", failed=[], demo="loss 2.00", result="passed"
        ),
        "py3.13-torch2.6-mmdet": dict(
            versions=VERSIONS, tests="1 failed, 8 passed", failed=["tests/a.py::b"], demo="loss 2.00", result="failed"
        ),
        "py3.10-torch2.15-mmdet": dict(result="not run: no torch==2.15.* could be installed (ERROR)"),
    }
    text = page(record)
    rows = [line for line in text.splitlines() if line.startswith("| 3.")]
    assert [row.rsplit("|", 2)[1].strip() for row in rows] == ["passed", "failed", "not run"]
    assert rows[0] == (
        "| 3.12.1 | 2.6.0 | MMDetection 3.3.0 | 0.10.7 | 2.1.0 | torchvision | 9 passed | loss 2.00 | passed |"
    )
    assert (
        "- py3.13-torch2.6-mmdet: `tests/a.py::b`\n"
        "- py3.10-torch2.15-mmdet: not run: no torch==2.15.* could be installed (ERROR)\n"
    ) in text
    _, _, others = text.partition("Not tried yet: ")
    assert set(others.strip().rstrip(".").split(", ")) == {stack.name for stack in stacks()} - set(record)


@pytest.mark.parametrize(
    ("log", "code", "tests", "failed"),
    [
        ("..\n== 2 passed, 1 skipped, 3 deselected, 1 warning in 1.50s ==\n", 0, "2 passed, 1 skipped", []),
        (
            "FAILED tests/a.py::b[x y] - assert 1\n1 failed, 2 passed in 3s\n",
            1,
            "1 failed, 2 passed",
            ["tests/a.py::b[x y]"],
        ),
        ("ERROR tests/a.py\n1 error in 3s\n", 2, "1 error", ["tests/a.py"]),
        ("Killed\n", 137, "Killed", ["pytest ended with code 137"]),
    ],
)
def test_outcome_of_the_tests(log, code, tests, failed):
    assert matrix.outcome_of(log, code) == (tests, failed)


@pytest.mark.parametrize(("codes", "still"), [((1, 0), []), ((1, 1), ["tests/a.py::b"])])
def test_failed_tests_are_run_again(tmp_path, codes, still):
    """Only they, and only what fails again counts."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nif [ -e {tmp_path}/called ]; then echo "$@" >> {tmp_path}/again; code={codes[1]}; '
        f"else touch {tmp_path}/called; code={codes[0]}; fi\n"
        "[ $code = 0 ] && echo '1 passed in 1s' || printf 'FAILED tests/a.py::b - x\\n1 failed in 1s\\n'\nexit $code\n"
    )
    python.chmod(0o755)
    found = matrix.quick_tests(python, tmp_path, ["tests/a.py"])
    assert (tmp_path / "again").read_text().endswith(" tests/a.py::b\n")
    again = "" if still else ", 1 of the failed passed when run again"
    assert found == {"tests": f"tests/a.py: 1 failed{again}", "failed": still}


def test_what_cannot_be_made_is_told_and_the_next_is_tried(tmp_path):
    """In a copy without a record, with interpreters that are none."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "docs").mkdir()
    for file in ("tools/matrix.py", "constraints.txt"):
        shutil.copy(REPOSITORY / file, tmp_path / file)
    shutil.copytree(REPOSITORY / "tools/stacks", tmp_path / "tools/stacks")
    command = [sys.executable, tmp_path / "tools/matrix.py", "--only", "torch2.8-mmdet", "--python", "3.10=/bin/false"]
    command += [f"--python={version}=/bin/false" for version in ("3.11", "3.12", "3.13")]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    record = json.loads((tmp_path / "docs/stacks.json").read_text())
    assert {name: entry["result"] for name, entry in record.items()} == {
        stack.name: "not run: venv failed (no output)" for stack in stacks() if "torch2.8-mmdet" in stack.name
    }
    assert done.stdout.count("not run: ") == len(record) == 5
    assert (tmp_path / "docs/stacks.md").read_text() == page(record)
