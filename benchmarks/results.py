"""The CSV file of all measurements, what each belongs to (machine, versions), and tables in Markdown.

A row of the file is one quantity of one thing that was measured; a value is one number, or one for each round. Rows
without `row` describe the machine and the command of a benchmark.
"""

from __future__ import annotations

import csv
import io
import os
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from mmengine.utils.dl_utils import collect_env

from localvit_det.errors import UserError
from localvit_det.files import write_text

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ("benchmark", "mode", "setting", "row", "run", "dtype", "quantity", "value")
PACKAGES = ("torch", "torchvision", "timm", "mmengine", "mmcv", "mmcv-lite", "mmdet", "localvit_det")
# Variables that change how memory is handed out: on a CPU large feature maps cost page faults.
ALLOCATOR = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "THP_MEM_ALLOC_ENABLE")


@dataclass
class Record:
    """One thing that was measured.

    Attributes:
        setting: What all rows of a table share apart from the mode: size of the images, batch, device.
        run: How the row was run, such as 'eager' or 'fused'.
        quantities: `seconds` has a number for each round; bytes of memory, MACs and others one.
        note: Why numbers are missing.
    """

    mode: str
    setting: str
    row: str
    run: str
    dtype: str
    quantities: dict[str, list[float]] = field(default_factory=dict)
    note: str = ""

    def get(self, name: str) -> float | None:
        """Return a single number."""
        return self.quantities[name][0] if name in self.quantities else None

    def quartiles(self, name: str = "seconds") -> tuple[float, float, float] | None:
        """Return first quartile, median and third quartile over the rounds."""
        if f"{name}, quartiles" in self.quantities:  # older measurements kept no more
            low, middle, high = self.quantities[f"{name}, quartiles"]
        elif self.quantities.get(name):
            low, middle, high = np.percentile(self.quantities[name], (25, 50, 75)).tolist()
        else:
            return None
        return low, middle, high


@dataclass
class Benchmark:
    """The output of one command."""

    environment: dict[str, str]
    records: list[Record] = field(default_factory=list)

    def tables(self) -> list[list[Record]]:
        """Return the records of each table, which were measured in the same rounds."""
        found: dict[tuple[str, str], list[Record]] = {}
        for record in self.records:
            found.setdefault((record.mode, record.setting), []).append(record)
        return list(found.values())


def read(path: Path) -> dict[str, Benchmark]:
    """Read all benchmarks of a file by their names; none where there is no file."""
    found: dict[str, Benchmark] = {}
    records: dict[tuple[str, str, str, str, str, str], Record] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in csv.DictReader(lines):
        name, mode, setting, row, run, dtype = key = itemgetter(*COLUMNS[:-2])(line)
        benchmark = found.setdefault(name, Benchmark({}))
        if not line["row"]:
            benchmark.environment[line["quantity"]] = line["value"]
            continue
        if key not in records:
            records[key] = Record(mode, setting, row, run, dtype)
            benchmark.records.append(records[key])
        if line["quantity"] == "note":
            records[key].note = line["value"]
        else:
            records[key].quantities[line["quantity"]] = [float(number) for number in line["value"].split()]
    return found


def write(path: Path, name: str, benchmark: Benchmark) -> None:
    """Put a benchmark into a file in the place of an earlier one of its name."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for key, one in {**read(path), name: benchmark}.items():
        writer.writerows((key, "", "", "", "", "", quantity, value) for quantity, value in one.environment.items())
        for record in one.records:
            start = (key, record.mode, record.setting, record.row, record.run, record.dtype)
            for quantity, numbers in record.quantities.items():
                writer.writerow((*start, quantity, " ".join(map(_short, numbers))))
            if record.note:
                writer.writerow((*start, "note", record.note))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, stream.getvalue())


def describe(device: str, about: str = "") -> dict[str, str]:
    """Collect what someone needs to judge or repeat a measurement on `device` ('cpu' or 'cuda')."""
    installed = {one.metadata["Name"] for one in metadata.distributions()}
    versions = [f"{name} {metadata.version(name)}" for name in PACKAGES if name in installed]
    load = f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "about": about,
        "device": collect_env().get("GPU 0", "") if device == "cuda" else _processor(),
        "threads": str(torch.get_num_threads()),
        "load": load,  # of the last minute, before measuring: on a busy machine no number means anything
        "python": platform.python_version(),
        "versions": ", ".join(versions),
        "allocator": ", ".join(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(ALLOCATOR)),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "system": platform.platform(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv[1:]),
    }


def headline(environment: dict[str, str]) -> str:
    """Return the environment in a line, for the head of a table."""
    allocator = f", {environment['allocator']}" if environment["allocator"] else ""
    return (
        f"{environment['device']}, {environment['threads']} threads, load {environment['load']} before; "
        f"Python {environment['python']}, {environment['versions']}{allocator}"
    )


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return a table whose first columns are aligned to the left, and the others, numbers, to the right."""
    rule = [*["---"] * left, *["---:"] * (len(head) - left)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def with_block(page: str, name: str, content: str) -> str:
    """Return a page with what stands between `<!-- NAME ... -->` and `<!-- end of NAME -->` exchanged.

    Raises:
        UserError: The page has no such block.
    """
    pattern = rf"(<!-- {name}\b[^>]*-->\n).*?(<!-- end of {name} -->)"
    changed, found = re.subn(pattern, lambda m: f"{m[1]}\n{content}\n\n{m[2]}", page, flags=re.DOTALL)
    if found != 1:
        raise UserError(f"The page needs one block from <!-- {name} --> to <!-- end of {name} -->, and has {found}.")
    return changed


def update_files(contents: dict[Path, str], check: bool, command: str) -> None:
    """Write generated files that are not current, or only check them.

    Raises:
        UserError: With `check`, some are not current.
    """
    stale = {path: text for path, text in contents.items() if not path.is_file() or path.read_text("utf-8") != text}
    if check and stale:
        names = ", ".join(path.relative_to(ROOT).as_posix() for path in stale)
        raise UserError(f"Not current: {names}; run `{command}`.")
    for path, text in stale.items():
        write_text(path, text)
        print(f"wrote {path.relative_to(ROOT)}")


def _short(number: float) -> str:
    """Return a number with microseconds, bytes and counts whole."""
    return str(int(number)) if float(number).is_integer() else f"{number:.7g}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return model[1] if model else platform.processor() or platform.machine()
