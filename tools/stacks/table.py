"""Which stacks there are, and the page about them; needs no package."""

from collections.abc import Iterator
from dataclasses import dataclass

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
TORCHES = ("2.6", "2.8", "2.10", "2.12", "2.14", "2.15")
LIBRARIES = ("mmdet", "onedl")
ITERATIONS = 10
HEAD = """# Tested versions

Results of `make quick` and of {iterations} training iterations of the demo on combinations of Python,
PyTorch, MMDetection and mmcv, whose operators come from torchvision and PyTorch (no compiler) or are compiled. On
Linux, x86-64, without a GPU, with all extras but int8; tests of libraries that are not installed are skipped.
"Passed in part": only the tests that are named were run there. CI runs the whole suite on the versions of
constraints.txt. Losses depend on the commit, which is in stacks.json, and on PyTorch, whose `trunc_normal_` draws
other numbers from 2.12 on.

`make matrix` writes this page. It skips finished combinations, continues after failures, and removes each environment.
It finds `python3.X` on the path, or takes it by an option:

```bash
python tools/matrix.py --python 3.12=/path/to/python3.12 --only py3.12-torch2.6
```

"""


@dataclass(frozen=True)
class Stack:
    """One combination."""

    python: str
    torch: str
    library: str = "mmdet"
    compiled: bool = False

    @property
    def name(self) -> str:
        """Its key in the record."""
        return f"py{self.python}-torch{self.torch}-{self.library}" + ("-compiled" if self.compiled else "")


def stacks() -> list[Stack]:
    """All: MMDetection everywhere, its fork on the ends of each Python, compiled operators on one Python."""
    plain = [Stack(python, torch) for torch in TORCHES for python in PYTHONS]
    fork = [Stack(python, torch, "onedl") for torch in (TORCHES[0], *TORCHES[-2:]) for python in PYTHONS]
    built = [Stack("3.11", torch, library, True) for library in LIBRARIES for torch in (TORCHES[1], TORCHES[-2])]
    return [*plain, *fork, *built]


def page(record: dict[str, dict]) -> str:
    """The table, and below it the reasons."""
    lines = ["| Python | PyTorch | library | mmengine | mmcv | operators | tests | demo | result |", "|" + " --- |" * 9]
    notes, others = [], []
    for stack in stacks():
        entry = record.get(stack.name)
        if entry is None:
            others.append(stack.name)
            continue
        of = entry.get("versions", {})
        if not entry["result"].startswith("passed"):
            notes.append(f"- {stack.name}: {'; '.join(reasons(entry))}")
        library = (
            f"MMDetection {of.get('mmdet', '3.3')}" if stack.library == "mmdet" else f"OneDL {of.get('mmdet', '3.5')}"
        )
        cells = (
            *(of.get("python", stack.python), of.get("torch", stack.torch).partition("+")[0], library),
            *(of.get("mmengine", ""), of.get("mmcv", ""), "compiled" if stack.compiled else "torchvision"),
            *(entry.get("tests", ""), entry.get("demo", ""), entry["result"].partition(":")[0]),
        )
        lines.append("| " + " | ".join(cells) + " |")
    text = HEAD.format(iterations=ITERATIONS) + "\n".join(lines) + "\n"
    if notes:
        text += "\nWhat did not pass:\n\n" + "\n".join(notes) + "\n"
    if others:
        text += f"\nNot tried yet: {', '.join(others)}.\n"
    return text


def reasons(entry: dict) -> Iterator[str]:
    """What kept a stack from passing."""
    if entry["result"].startswith("not run: "):
        yield entry["result"]
    yield from (f"`{name}`" for name in entry.get("failed", ()))
    if not entry.get("demo", "loss").startswith("loss"):
        yield f"demo: {entry['demo']}"
