"""Installs the package on many stacks, runs the quick tests and ten training iterations on each: `make matrix`.

A stack is a Python, a PyTorch, MMDetection or OneDL's fork of it, and an mmcv without or with compiled operators. Each
gets an environment of its own, which is removed again. What came of it goes to docs/stacks.json, and from there to the
table of docs/stacks.md; stacks that were run are skipped (--again runs them anew), so that a stopped run goes on.
A stack that cannot be made here is listed with the reason. Takes gigabytes and ten minutes or more for each stack.
"""

import argparse
import glob
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from stacks.table import ITERATIONS, Stack, page, stacks

ROOT = Path(__file__).resolve().parent.parent
RECORD, PAGE = ROOT / "docs/stacks.json", ROOT / "docs/stacks.md"
# Extras of pyproject.toml; the first is the stack itself. All the others only let more tests run.
MORE = ("fast-eval", "convert", "export", "tensorboard", "wandb", "mlflow", "test")
EXTRAS = {
    "mmdet": ("lite", "seg", "pretrain", *MORE),
    "onedl": ("onedl", "onedl-seg", "onedl-pretrain", *MORE),
}
COMPILED = {"mmdet": "mmcv==2.1.0", "onedl": "onedl-mmcv==2.3.6"}
SHOWN = ("torch", "torchvision", "numpy", "mmdet", "mmengine", "mmcv")
DEMO = "configs/mask_rcnn_shuffle_nano_shapes.py"
BATCH = 8
DONE = ("passed", "failed")  # a part of the tests is not all


class NotMade(Exception):
    """This stack cannot be made here; the message says why."""


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the arguments, runs what is not done, writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], metavar="PATTERN", help="parts of the stacks' names")
    parser.add_argument("--python", action="append", default=[], metavar="3.12=PATH", help="an interpreter")
    parser.add_argument("--work-dir", type=Path, default=ROOT / "work_dirs/matrix", help="environments and logs")
    parser.add_argument("--keep", action="store_true", help="leave environments there, and use such as are there")
    parser.add_argument("--tests", nargs="+", default=[], metavar="PATH", help="only these of the quick tests")
    parser.add_argument("--again", action="store_true", help="run also what is done")
    parser.add_argument("--list", action="store_true", help="name the stacks and run nothing")
    parser.add_argument("--table-only", action="store_true", help="write the page from the record and run nothing")
    args = parser.parse_args(argv)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job hands on that it is ignored
    given = dict(item.split("=", 1) for item in args.python)
    # In the order of --only, so that what matters most comes first; the name of one may be a part of another's.
    names = {stack.name: stack for stack in stacks()}
    chosen = [[part] if part in names else [name for name in names if part in name] for part in args.only]
    for stack in dict.fromkeys(names[name] for group in chosen for name in group):
        done = read_record().get(stack.name, {})
        if args.list:
            print(f"{stack.name}: {done.get('result', 'not run')}")
        if args.list or args.table_only or (done.get("result") in DONE and not args.again):
            continue
        print(f"{stack.name} ...", flush=True)
        result = run(stack, given.get(stack.python), args.work_dir.resolve() / stack.name, args.keep, args.tests)
        print(f"{stack.name}: {result['result']}", flush=True)
        # Read again: another run may have written meanwhile.
        write(RECORD, json.dumps({**read_record(), stack.name: result}, indent=1, sort_keys=True) + "\n")
        write(PAGE, page(read_record()))
    if args.table_only:
        write(PAGE, page(read_record()))


def run(stack: Stack, python: str | None, folder: Path, keep: bool, tests: list[str]) -> dict:
    """Makes a stack, tries it, removes it.

    Returns:
        `result`, one sentence, and what was found: `versions`, `tests`, `failed`, `demo`.
    """
    began = time.time()
    found: dict = {"date": time.strftime("%Y-%m-%d"), "commit": git_commit()}
    interpreter, made = folder / "venv/bin/python", folder / "venv/made"
    try:
        if not (keep and made.exists()):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            make(stack, python, folder)
            made.touch()
        found["versions"] = versions(interpreter)
        found.update(quick_tests(interpreter, folder, tests))
        found["demo"] = demo(interpreter, folder)
        passed = not found["failed"] and found["demo"].startswith("loss ")
        found["result"] = ("passed in part" if tests else "passed") if passed else "failed"
    except NotMade as reason:
        found["result"] = f"not run: {reason}"
    finally:
        if not keep:
            shutil.rmtree(folder / "venv", ignore_errors=True)
    return {**found, "minutes": round((time.time() - began) / 60, 1)}


def make(stack: Stack, python: str | None, folder: Path) -> None:
    """Makes the environment."""
    base = python or find_python(stack.python)
    log = folder / "install.log"
    call([base, "-m", "venv", folder / "venv"], log, "venv failed")
    interpreter = folder / "venv/bin/python"
    pip = [interpreter, "-m", "pip", "install"]
    call([*pip, "--upgrade", "pip"], log, "pip cannot be upgraded")
    constraints = folder / "constraints.txt"
    free = ("torch", "torchvision")
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    write(constraints, "".join(line for line in lines if line.partition("==")[0] not in free))
    version = f"torch=={stack.torch}.*"
    call([*pip, "-c", constraints, version, "torchvision", "setuptools"], log, f"no {version} could be installed")
    extras = EXTRAS[stack.library]
    if stack.compiled:
        needs = ["-c", constraints, "wheel", "ninja", "packaging", "psutil"]
        call([*pip, *needs], log, "tools to compile with could not be installed")
        package = COMPILED[stack.library]
        # Not a wheel of the index, which would have no operators.
        build = [*pip, "-c", constraints, "--no-build-isolation", "--no-binary", package.partition("==")[0], package]
        call(build, log, f"{package} does not compile here")
        extras = tuple("mmdet" if extra == "lite" else extra for extra in extras)
    call([*pip, "-c", constraints, "-e", f".[{','.join(extras)}]"], log, "the package could not be installed")
    code = "from localvit_det.requirements import has_compiled_operators as has; print(has())"
    if (output([interpreter, "-c", code], "localvit_det cannot be imported") == "True") != stack.compiled:
        raise NotMade(f"mmcv has {'no ' if stack.compiled else ''}compiled operators after all")


def find_python(version: str) -> str:
    """An interpreter of a version: on the path, of pyenv or of uv."""
    home = os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")
    candidates = [shutil.which(f"python{version}"), *sorted(glob.glob(f"{home}/versions/{version}.*/bin/python"))]
    if shutil.which("uv"):
        candidates.append(
            subprocess.run(["uv", "python", "find", version], capture_output=True, text=True).stdout.strip()
        )
    code = "import ensurepip, ssl, venv, sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, candidates):  # a shim of pyenv may exist without its Python
        done = subprocess.run([candidate, "-c", code], capture_output=True, text=True)
        if done.stdout.strip() == version:
            return candidate
    raise NotMade(f"no Python {version} was found")


def call(command: list, log: Path, failure: str) -> None:
    """Runs a command, its output in a log; raises `NotMade` with the last line of an error."""
    with open(log, "a", encoding="utf-8") as file:
        done = subprocess.run([str(part) for part in command], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in lines if re.match(r"\s*(ERROR|error|\S*Error):", line) or " error: " in line]
        raise NotMade(f"{failure} ({shorten((errors or lines or ['no output'])[-1])})")


def output(command: list, failure: str) -> str:
    """The last line that a command prints."""
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or [""]
    if done.returncode:
        raise NotMade(f"{failure} ({shorten(lines[-1])})")
    return lines[-1]


def versions(interpreter: Path) -> dict[str, str]:
    """What the modules say of themselves."""
    code = f"import json, platform, localvit_det, {', '.join(SHOWN)}\n"
    code += (
        f"print(json.dumps(dict(python=platform.python_version(), {', '.join(f'{m}={m}.__version__' for m in SHOWN)})))"
    )
    return json.loads(output([interpreter, "-c", code], "a module cannot be imported"))


def quick_tests(interpreter: Path, folder: Path, paths: list[str]) -> dict:
    """The last line of the tests, and the names of those that failed twice: the second time by themselves."""
    outcome, failed = pytest(interpreter, folder / "tests.log", paths)
    if failed and all("::" in name for name in failed):
        first = len(failed)
        _, failed = pytest(interpreter, folder / "tests_again.log", failed)
        outcome += f", {first - len(failed)} of the failed passed when run again" if len(failed) < first else ""
    return {"tests": f"{', '.join(paths)}: {outcome}" if paths else outcome, "failed": failed}


def pytest(interpreter: Path, log: Path, paths: list[str]) -> tuple[str, list[str]]:
    """Runs tests.

    Returns:
        pytest's last line, and what failed.
    """
    options = ("-q", "-m", "not slow and not measuring", "-p", "no:cacheprovider")
    command = [str(interpreter), "-u", "-m", "pytest", *options, *paths]
    with open(log, "w", encoding="utf-8") as file:
        code = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT).returncode
    return outcome_of(log.read_text(encoding="utf-8", errors="replace"), code)


def outcome_of(text: str, code: int) -> tuple[str, list[str]]:
    """Reads pytest's output."""
    failed = sorted(set(re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", text, flags=re.MULTILINE)))
    summary = re.search(r"^=* ?(\d+ (?:passed|failed|error|skipped).*) in [\d.]+s.*$", text, flags=re.MULTILINE)
    counts = re.findall(r"\d+ (?:passed|failed|errors?|skipped)", summary[1]) if summary else []
    if code and not failed:
        failed = [f"pytest ended with code {code}"]
    return ", ".join(counts) or shorten((text.strip().splitlines() or ["no output"])[-1]), failed


def demo(interpreter: Path, folder: Path) -> str:
    """Ten iterations of `make demo`'s training and an evaluation; the last loss, or what went wrong."""
    options = (f"train_dataloader.dataset.indices={ITERATIONS * BATCH}", "train_cfg.max_epochs=1")
    work = folder / "demo"
    shutil.rmtree(work, ignore_errors=True)
    command = [interpreter, "tools/train.py", DEMO, "--work-dir", work, "--cfg-options", *options]
    try:
        call(command, folder / "demo.log", "the training stopped")
    except NotMade as reason:
        return str(reason)
    lines = [line for file in work.glob("*/vis_data/scalars.json") for line in file.read_text("utf-8").splitlines()]
    entries = [json.loads(line) for line in lines]
    losses = [
        entry["loss"] for entry in entries if entry.get("step", entry.get("iter")) == ITERATIONS and "loss" in entry
    ]
    if len(losses) != 1 or not math.isfinite(losses[0]):
        return f"no finite loss after {ITERATIONS} iterations"
    # What an evaluation writes has no loss; it has no figures either where nothing was found yet.
    return f"loss {losses[0]:.2f}" if any("loss" not in entry for entry in entries) else "no evaluation"


def read_record() -> dict[str, dict]:
    """Results by the names of their stacks."""
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}


def write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def git_commit() -> str:
    """What of the code was tried."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def shorten(line: str, limit: int = 160) -> str:
    """One line for a table, without this machine's folders."""
    line = line.strip().replace(str(ROOT), ".").replace(str(Path.home()), "~").replace("|", "/")
    return line if len(line) <= limit else line[:limit] + "…"


if __name__ == "__main__":
    main(sys.argv[1:])
