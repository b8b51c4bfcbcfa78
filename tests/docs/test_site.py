"""The site is built without a warning, where its tools are installed."""

import subprocess
import sys

import pytest
from conftest import REPOSITORY


@pytest.mark.slow
def test_site_is_built_without_warnings(tmp_path):
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    pytest.importorskip("mkdocstrings", reason="the extra docs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    pages = {path.relative_to(tmp_path / "site").parent.as_posix() for path in tmp_path.rglob("index.html")}
    assert {".", "training", "inference", "analysis", "datasets", "export", "benchmarks"} <= pages
    assert {"changelog", "contributing"} <= pages
    reference = (tmp_path / "site/api/backbones/index.html").read_text(encoding="utf-8")
    assert 'id="localvit_det.backbones.ShuffleTransformer"' in reference
    assert ":class:" not in reference
