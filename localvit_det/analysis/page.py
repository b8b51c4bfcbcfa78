"""Pages of tables, charts and pictures: one HTML file that needs nothing beside itself, or files in a folder."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from ..files import atomic_file, write_bytes, write_text
from ..output_names import OutputFolder
from .look import SCRIPT, STYLE_SHEET
from .style import FONT, INK, styled

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Rows under a head; a click on a head sorts.

    Attributes:
        name: Of the file, without its suffix.
        digits: After the point of floats.
    """

    name: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    digits: int = 3


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
    tags: Sequence[str] = ()  # by which the reader can choose among the pictures of a section


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


def write_page(path: str | Path, title: str, sections: Sequence[Section]) -> None:
    """Writes one HTML file that holds everything, images included, whole or not at all."""
    write_text(path, render(title, sections))


def render(title: str, sections: Sequence[Section]) -> str:
    """The HTML of a page."""
    anchors = [re.sub(r"\W+", "-", section.title.lower()).strip("-") for section in sections]
    links = "".join(
        f'<a href="#{anchor}">{escape(section.title)}</a>' for anchor, section in zip(anchors, sections, strict=True)
    )
    body = "".join(
        f'<section id="{anchor}"><h2>{escape(section.title)}</h2>{_parts(section.parts, anchor)}</section>\n'
        for anchor, section in zip(anchors, sections, strict=True)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f'<link rel="icon" href="data:,"/><title>{escape(title)}</title><style>{STYLE_SHEET}</style></head>\n'
        f"<body><header><h1>{escape(title)}</h1><nav>{links}</nav></header>\n<main>{body}</main>\n"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _parts(parts: Sequence[Part], anchor: str) -> str:
    """Charts and pictures that follow each other stand in one grid."""
    html, open_grid = "", ""
    for index, part in enumerate(parts):
        grid = {Chart: "charts", Picture: "pictures"}.get(type(part), "")
        if grid != open_grid:
            html += "</div>" if open_grid else ""
            if grid == "pictures":
                html += _chooser(parts[index:])
            html += f'<div class="{grid}">' if grid else ""
            open_grid = grid
        html += _part(part, f"{anchor}-{index}")
    return html + ("</div>" if open_grid else "")


def _chooser(parts: Sequence[Part]) -> str:
    tags = dict.fromkeys(tag for part in parts if isinstance(part, Picture) for tag in part.tags)
    if len(tags) < 2:
        return ""
    options = "".join(f'<option value="{escape(tag)}">{escape(tag)}</option>' for tag in sorted(tags))
    return f'<p><label>show <select class="chooser"><option value="">all</option>{options}</select></label></p>'


def _part(part: Part, identity: str) -> str:
    if isinstance(part, Table):
        return _table(part)
    if isinstance(part, Tiles):
        tiles = "".join(
            f"<div><b>{escape(number)}</b><span>{escape(what)}</span></div>" for what, number in part.numbers
        )
        return f'<div class="tiles">{tiles}</div>'
    if isinstance(part, Chart):
        wide = ' class="wide"' if part.wide else ""
        svg = _svg(part.figure, identity, part.caption)
        return f"<figure{wide}>{svg}<figcaption>{escape(part.caption)}</figcaption></figure>"
    if isinstance(part, Picture):
        content = base64.b64encode(_encoded(part.image)).decode()
        tags = escape("\n".join(part.tags)).replace("\n", "&#10;")
        size = f'width="{part.image.shape[1]}" height="{part.image.shape[0]}"'
        return (
            f'<figure data-tags="{tags}"><img loading="lazy" {size} alt="{escape(part.caption)}" '
            f'src="data:image/jpeg;base64,{content}"/><figcaption>{escape(part.caption)}</figcaption></figure>'
        )
    return f"<p>{escape(part)}</p>"


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in table.head)
    rows = "".join(f"<tr>{''.join(_cell(cell, table.digits) for cell in row)}</tr>" for row in table.rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(cell: Cell, digits: int) -> str:
    if isinstance(cell, str):
        return f"<td>{escape(cell)}</td>"
    return f'<td class="number" data-value="{"" if cell is None else cell}">{readable(cell, digits)}</td>'


def readable(cell: Cell, digits: int = 3) -> str:
    """A cell as a text."""
    if cell is None:
        return "-"
    return f"{cell:.{digits}f}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else cell


@styled
def _svg(figure: Figure, identity: str, caption: str) -> str:
    """A figure as an element of a page: its text is the page's, its names are its own."""
    stream = io.StringIO()
    figure.savefig(
        stream, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1
    )
    text = re.sub(r'\bid="', f'id="{identity}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{identity}-", text)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", FONT, text).replace(INK, "currentColor")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(caption)}"', 1)


def _encoded(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, 85))[1].tobytes()


def write_files(folder: str | Path, sections: Sequence[Section]) -> list[Path]:
    """Writes tables as CSV, charts as PNG and pictures as JPEG.

    Returns:
        The files.
    """
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
        write_bytes(path, _encoded(part.image))
    else:
        return
    yield path
