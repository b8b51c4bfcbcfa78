"""The files around the code agree: the workflow does what `.ci/run` does, and versions stand the same everywhere."""

import re
import sys
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY

import localvit_det

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="reading TOML needs Python 3.11 or tomli")

MADE = re.compile(r"^\s*make ((?:[a-z]+ ?)+)", re.MULTILINE)


def read(path: str) -> str:
    return (REPOSITORY / path).read_text(encoding="utf-8")


def project() -> dict[str, Any]:
    return tomllib.loads(read("pyproject.toml"))


def pinned(name: str) -> str:
    return re.search(rf"^{name}==(\S+)$", read("constraints.txt"), flags=re.MULTILINE)[1]


def targets(text: str) -> set[str]:
    return {target for line in MADE.findall(text) for target in line.split()}


def test_workflow_makes_what_ci_makes():
    jobs = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]
    steps = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert targets("\n".join(steps)) == targets(read(".ci/run"))
    phony = re.search(r"^\.PHONY: (.+)$", read("Makefile"), flags=re.MULTILINE)[1].split()
    assert targets(read(".ci/run")) <= set(phony)


def test_workflow_runs_every_python_of_the_classifiers():
    jobs = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]
    declared = project()["project"]["classifiers"]
    versions = [one.rpartition(" ")[2] for one in declared if re.search(r":: 3\.\d+$", one)]
    assert jobs["test"]["strategy"]["matrix"]["python"] == versions
    assert project()["project"]["requires-python"] == f">={versions[0]}"


def test_hooks_before_a_commit_use_the_pinned_ruff():
    hooks = [hook for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]]
    assert {hook["id"] for hook in hooks} == {"ruff-check", "ruff-format"}
    for hook in hooks:
        assert hook["language"] == "python"
        assert hook["additional_dependencies"] == [f"ruff=={pinned('ruff')}"]


def test_citation_is_of_this_version():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == localvit_det.__version__
    assert citation["license"] == project()["project"]["license"]
    urls = set(project()["project"]["urls"].values())
    assert {reference["url"] for reference in citation["references"]} <= urls


def test_every_extra_of_the_docs_exists():
    table = re.findall(r"^\| (`.+?`) \|", read("docs/installation.md").partition("| extra |")[2], flags=re.MULTILINE)
    named = {name for cell in table for name in re.findall(r"`([\w-]+)`", cell)}
    assert named == set(project()["project"]["optional-dependencies"])
