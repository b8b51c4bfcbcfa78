"""README and pages: facts of the families are those of the code; commands, links and words are checked."""

import argparse
import importlib
import re
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPOSITORY
from families import FAMILIES
from mmdet.registry import MODELS

from localvit.__main__ import COMMANDS
from localvit.commands import find
from localvit_det.config import load_config

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
ZOO = (REPOSITORY / "docs/model_zoo.md").read_text(encoding="utf-8")
# Entries of the changelog keep the words of their time.
PAGES = sorted({*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")} - {REPOSITORY / "CHANGELOG.md"})


@pytest.mark.parametrize("name", FAMILIES)
def test_family_stands_on_the_pages(name):
    family = MODELS.get(name)
    sizes = re.findall(rf"^\| `{name}` \| (\w+) \|", ZOO, flags=re.MULTILINE)
    assert sizes == list(family.arch_settings), f"add {name} to docs/model_zoo.md: python -m benchmarks.model_zoo"
    assert family.title
    assert family.paper[1].startswith("https://")
    file = family.__module__.rpartition(".")[2]
    assert family.paper[1] in (REPOSITORY / f"configs/metafiles/{file}.yml").read_text(encoding="utf-8")
    assert family.paper[1] in README or name not in README


def test_swap_of_the_backbone(tmp_path):
    [code] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    model = load_config(tmp_path / "mine.py", data=False).model
    assert model.backbone.type == "GGTransformer"
    assert model.neck.in_channels == list(MODELS.get("GGTransformer").out_channels_of(model.backbone))


def commands() -> list[str]:
    """All commands of the pages that start Python, localvit or make, on one line each."""
    found: dict[str, None] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if page.name == "common_jobs.md":  # the other rows have the commands of other projects
            text = "\n".join(line for line in text.splitlines() if line.startswith("| here |"))
        blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
        lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
        for line in [*lines, *re.findall(r"`([^`\n]+)`", text)]:
            command = re.sub(r"^(\w+=\S+ )+", "", line.strip())
            if re.match(r"(python (?!-c)|localvit \w|make |tools/\w+\.sh )", command):
                found[" ".join(shlex.split(command, comments=True))] = None
    return list(found)


class Parsed(Exception):
    """Ends a tool once it has read its arguments."""


@pytest.fixture
def parses(monkeypatch) -> Callable[[str, list[str]], None]:
    """Lets a script read its arguments and end there; one that takes none of them ends with SystemExit."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self, args=None, namespace=None):
        original(self, args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)

    def parse(main: Callable[[list[str]], object], arguments: list[str]) -> None:
        with pytest.raises(Parsed):
            main(arguments)

    return parse


@pytest.mark.parametrize("command", commands())
def test_command_exists(command, parses):
    words = shlex.split(command)
    for word in words:
        if word.startswith("configs/") and "*" not in word:
            assert (REPOSITORY / word).is_file(), word
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
        assert [w for w in words[1:] if "=" not in w and w not in targets] == []
    elif words[0].endswith(".sh"):
        script = (REPOSITORY / words[0]).read_text()
        assert len(words) > int(re.search(r"\$# -ge (\d+)", script)[1])
    elif words[0] == "localvit":
        if len(words) == 2:  # named in a sentence
            assert words[1] in {*COMMANDS, "COMMAND"}
        elif words[1] != "COMMAND":
            parses(find(words[1]), words[2:])
    elif words[1] == "-m":
        if words[2] != "pytest":
            parses(importlib.import_module(words[2]).main, words[3:])
    else:
        path = REPOSITORY / words[1].removeprefix("../localvit_det/")
        parses(runpy.run_path(str(path))["main"], words[2:])


def test_commands_are_found():
    scripts = {word for command in commands() for word in command.split()[:2]}
    assert {"tools/train.py", "tools/test.py", "tools/publish_model.py", "demo"} <= scripts


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        if name.startswith(("http:", "https:")):
            continue
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, target


def test_files_that_contributors_are_sent_to():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:localvit|localvit_det|tools|benchmarks|configs|docs)/[\w/.]+)`", text)
    assert len(set(paths)) > 12
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []
    rows = [row for row in re.findall(r"^\| (.+) \| (.+) \|$", text, flags=re.MULTILINE) if "`" in row[1]]
    assert len(rows) == 8
    for kind, files in rows:
        assert 1 <= len(re.findall(r"`\w+/[\w/]+\.\w+`", files)) <= 4, kind
    [settings] = [row for kind, row in rows if kind.startswith("setting")]
    for name, file in re.findall(r"`(\w+)`[^`]* (?:of|in) `([\w/]+/[\w.]+)`", settings):
        assert re.search(rf"^(def )?{name}\b", (REPOSITORY / file).read_text(encoding="utf-8"), re.MULTILINE), name


WORDS = {  # as the field writes it: what it does not write
    "dataset": r"data sets?",
    "MACs, explained once as multiply-adds (MACs) or MACs (multiply-adds)": r"(?<!MACs \()multiply-adds?(?! \(MACs)",
    "bitwise identical": r"to the bit",
    "synthetic shapes": r"drawn (shapes|images|ones)",
    "not reproduced here": r"nobody|not repeated here",
    "downsampling": r"steps? down",
    "INT8": r"integers of 8 bits",
    "N problems found": r"(has|have) to be mended",
    "fix": r"mend(s|ed|ing)?",
    "reported": r"told",
    "next to, with": r"besides?",
    "mismatches": r"strays?",
    "by descending score": r"surest( first)?",
    "data flow": r"roads?",
    "space; subpackage": r"rooms?",
    "thin wrapper": r"doors?",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_words_are_those_of_the_field(page: Path):
    """Quoted output and code may say otherwise."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    prose = " ".join(prose.split())
    found = {
        better: m[0] for better, word in WORDS.items() if (m := re.search(rf"\b(?:{word})\b", prose, re.IGNORECASE))
    }
    assert found == {}


def test_words_of_the_code():
    words = [WORDS[better] for better in ("dataset", "bitwise identical", "not reproduced here", "fix", "reported")]
    words += [WORDS[better] for better in ("next to, with", "mismatches", "data flow", "INT8", "downsampling")]
    pattern = re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE)
    folders = ("localvit_det", "localvit", "tools", "benchmarks", "configs", ".github")
    files = [path for folder in folders for path in (REPOSITORY / folder).rglob("*") if path.suffix in (".py", ".yml")]
    assert len(files) > 300
    found = {str(path): m[0] for path in files if (m := pattern.search(path.read_text(encoding="utf-8")))}
    assert found == {}
