"""Mutation testing: change single places of the package at random, and see whether a test fails.

    PYTHONPATH=tests python -m pytest -p line_record -m "not slow and not measuring" tests/backbones tests/layers
    python tools/mutate.py --seed 0 --count 100 --rooms backbones layers

The first command writes down which tests run which lines (tests/line_record.py). A mutant runs the tests of its line,
the fastest first, until one fails: in a fork, with the code of a function exchanged, and in a new process, with all
tests of its file where its line runs at import alone.
"""

import argparse
import gc
import io
import json
import os
import random
import signal
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType

import pytest

from mutation.sample import ROOT, Mutant, mutants, mutated

RECORD = ROOT / "work_dirs/line_record.json"
ROOMS = ["backbones", "layers", "ops", "datasets", "evaluation", "checkpoint"]


def put_in(file: Path, path: tuple, number: int) -> None:
    """Let a file be imported with one change, and put it into its functions that have been imported."""
    code = compile(mutated(file, path, number), str(file), "exec")
    original = SourceFileLoader.get_code
    SourceFileLoader.get_code = lambda self, name: code if self.path == str(file) else original(self, name)
    found = [code]
    for outer in found:
        found += [inner for inner in outer.co_consts if isinstance(inner, CodeType)]
    codes = {(c.co_name, c.co_firstlineno): c for c in found}
    gc.unfreeze()  # of what the tests' conftest leaves out of collections, the functions would not be found
    for function in gc.get_objects():
        if type(function) is FunctionType and function.__code__.co_filename == str(file):
            function.__code__ = codes[function.__code__.co_name, function.__code__.co_firstlineno]


def passes(tests: list[str]) -> bool:
    """Run tests, silently."""
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    return pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]) == 0


def survives(mutant: Mutant, record: dict[str, dict], budget: float) -> bool:
    """Run the tests that concern a mutant in a process of their own."""
    file, _, _, line, _ = mutant
    name = str(file.relative_to(ROOT))
    tests = [test for test, ran in record.items() if line in ran["lines"].get(name, ())]
    at_import = not tests
    tests = tests or [test for test, ran in record.items() if name in ran["lines"]]
    total, chosen = 0.0, []
    for test in sorted(tests, key=lambda test: record[test]["seconds"]):
        total += record[test]["seconds"]
        chosen += [test] if total < budget else []
    if not chosen:
        return True
    ways = (True,) if at_import else (False, True)  # what runs in a test may have run at import as well
    return all(_passes_in_fork(mutant, chosen, anew, 120 + int(10 * total)) for anew in ways)


def _passes_in_fork(mutant: Mutant, tests: list[str], anew: bool, seconds: int) -> bool:
    file, path, number, *_ = mutant
    if (child := os.fork()) == 0:
        signal.alarm(seconds)  # ends loops without end
        if anew:
            one = json.dumps([str(file), path, number, tests])
            os.execv(sys.executable, [sys.executable, __file__, "--one", one])
        try:
            put_in(file, path, number)
        except ValueError:  # a closure lost a variable
            os._exit(1)
        os._exit(not passes(tests))
    return os.waitpid(child, 0)[1] == 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Sample, run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--rooms", nargs="+", default=ROOMS)
    parser.add_argument("--budget", type=float, default=60, help="recorded seconds of tests for a mutant")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    os.chdir(ROOT)
    if args.one:
        file, path, number, tests = json.loads(args.one)
        put_in(Path(file), path, number)
        sys.exit(not passes(tests))
    record = json.loads(RECORD.read_text())
    everything = [mutant for room in args.rooms for mutant in mutants(room)]
    chosen = random.Random(args.seed).sample(everything, args.count)
    with redirect_stdout(io.StringIO()):  # imports all that the tests import, once
        pytest.main(["--collect-only", "-qq", *sorted({test.partition("::")[0] for test in record})])
    killed = 0
    for i, mutant in enumerate(chosen, 1):
        alive = survives(mutant, record, args.budget)
        killed += not alive
        place = f"{mutant[0].relative_to(ROOT / 'localvit_det')}:{mutant[3]}"
        print(f"{i} {'SURVIVED' if alive else 'killed'} {place}  {mutant[4]}", flush=True)
    print(f"{killed} of {args.count} killed; {len(everything)} possible, seed {args.seed}")


if __name__ == "__main__":
    main()
