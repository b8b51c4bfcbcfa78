"""Pages of tables, charts and pictures: one self-contained HTML file, or files in a folder."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from ..files import OutputFolder, atomic_file, write_bytes, write_text
from .charts import FONT, INK, styled

LARGEST = 640  # pixels on the longer side of an image in a picture
Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Rows under a head; a click on a head sorts."""

    name: str  # of the file, without its suffix
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    digits: int = 3  # after the point of floats
    caption: str = ""  # above the table, where a section has several

    @classmethod
    def of_rows(cls, name: str, rows: Sequence[Mapping[str, Cell]], digits: int = 3) -> Table:
        """Return the table of at least one row, each of which has its cells by their heads."""
        return cls(name, list(rows[0]), [list(row.values()) for row in rows], digits)


@dataclass(frozen=True)
class Chart:
    """A figure; its text is drawn in `INK`, which becomes the color of the page's text."""

    name: str
    figure: Figure
    caption: str
    wide: bool = False  # over the whole page instead of half of it


@dataclass(frozen=True)
class Picture:
    """An image, H×W×3, uint8, BGR."""

    name: str
    image: np.ndarray
    caption: str
    tags: tuple[str, ...] = ()  # by which the reader can choose among the pictures of a section

    def jpeg(self) -> bytes:
        """Return the image as a file."""
        return cv2.imencode(".jpg", self.image, (cv2.IMWRITE_JPEG_QUALITY, 85))[1].tobytes()


@dataclass(frozen=True)
class Tiles:
    """The few numbers that matter, large."""

    numbers: Sequence[tuple[str, str]]  # what, number


Part = str | Table | Chart | Picture | Tiles  # a text is a paragraph


@dataclass
class Section:
    """A heading and what stands below it."""

    title: str
    parts: list[Part] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """How links within the page name the section."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")

    def groups(self) -> list[tuple[str, list[Part]]]:
        """Return the parts, in their order, by kinds that follow each other: charts and pictures share a grid."""
        grouped = itertools.groupby(self.parts, lambda part: type(part).__name__)
        return [(kind, list(parts)) for kind, parts in grouped]


def write_page(path: str | Path, title: str, sections: Sequence[Section]) -> None:
    """Write one HTML file that holds everything, images included, whole or not at all."""
    write_text(path, render(title, sections))


def render(title: str, sections: Sequence[Section]) -> str:
    """Return the HTML of a page."""
    return _ENVIRONMENT.get_template("page.html").render(title=title, sections=sections)


def readable(cell: Cell, digits: int = 3) -> str:
    """Return a cell as a text."""
    if cell is None:
        return "-"
    return f"{cell:.{digits}f}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else cell


@styled
def _svg(chart: Chart, identity: str) -> Markup:
    """Return a chart as an element of a page: its text is the page's, its ids are its own."""
    stream = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    chart.figure.savefig(stream, format="svg", transparent=True, metadata=metadata)
    _, _, text = stream.getvalue().partition("<svg")
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    opening, _, content = text.partition(">")
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    content = re.sub(r'\bid="', f'id="{identity}-', content)
    content = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{identity}-", content)
    content = re.sub(r"'DejaVu Sans'[^;\"]*", FONT, content).replace(INK, "currentColor")
    return Markup(f'<svg role="img" aria-label="{escape(chart.caption)}"{opening}>{content}')


_ENVIRONMENT = Environment(
    loader=PackageLoader(__package__), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_ENVIRONMENT.filters.update(readable=readable, svg=_svg, base64=lambda content: base64.b64encode(content).decode())


def write_files(folder: str | Path, sections: Sequence[Section]) -> list[Path]:
    """Write tables as CSV, charts as PNG and pictures as JPEG, and return the files."""
    outputs = OutputFolder(folder)
    return [path for section in sections for part in section.parts for path in _write_part(outputs, part)]


def _write_part(outputs: OutputFolder, part: Part) -> Iterator[Path]:
    if isinstance(part, Table):
        path = outputs.path(outputs.name(f"{part.name}.csv"))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([part.head, *part.rows])
        write_text(path, text.getvalue())
    elif isinstance(part, Chart):
        path = outputs.path(outputs.name(f"{part.name}.png"))
        with atomic_file(path) as file:
            part.figure.savefig(file, format="png", dpi=150, facecolor="white")
    elif isinstance(part, Picture):
        path = outputs.path(outputs.name(f"{part.name}.jpg"))
        write_bytes(path, part.jpeg())
    else:
        return
    yield path
