"""Pages are self-contained, and say what they were given."""

import csv

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure
from pages import CHROMIUM, check_page, show_in_browser

from localvit_det.analysis.charts import lines, rgb
from localvit_det.analysis.page import Chart, Picture, Section, Table, Tiles, readable, render, write_files, write_page
from localvit_det.analysis.results import result_sections
from localvit_det.visualization import class_color

NASTY = '<script>alert("x")</script> & $a_1$'


def chart(name: str = NASTY) -> Figure:
    return lines({name: (np.arange(3), np.array([0.1, 0.3, 0.2])), "b": (np.arange(3), np.ones(3))}, name)


@pytest.fixture
def sections() -> list[Section]:
    image = np.full((20, 30, 3), (200, 10, 10), np.uint8)
    pictures = [Picture(f"p{i}", image, NASTY, (NASTY, f"tag {i}")) for i in range(2)]
    table = Table("t", ["name", "n", NASTY], [["b", 2, None], ["a", 10, 0.25], [NASTY, 1, 0.5]])
    return [
        Section("First " + NASTY, [Tiles([(NASTY, "0.5")]), table, NASTY]),
        Section("2", [Chart("c", chart(), NASTY), *pictures]),
    ]


def test_page_is_whole_and_needs_nothing_else(sections):
    text = render(NASTY, sections)
    checker = check_page(text)
    assert "<script>alert" not in text
    assert checker.text.count(NASTY) >= 6  # escaped, so that a reader sees it as it is
    assert "currentColor" in text
    assert "#010203" not in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.slow
def test_browser_shows_sorts_and_chooses(sections, tmp_path):
    write_page(tmp_path / "page.html", NASTY, sections)
    script = """
      const heads = document.querySelectorAll("th"), rows = () => [...document.querySelectorAll("tbody tr")]
        .map(row => row.cells[0].textContent.slice(0, 1)).join("");
      const said = [rows()];
      heads[1].click(); said.push(rows()); heads[1].click(); said.push(rows()); heads[2].click(); said.push(rows());
      const chooser = document.querySelector(".chooser");
      chooser.value = "tag 1"; chooser.dispatchEvent(new Event("change"));
      said.push([...document.querySelectorAll("figure[data-tags]")].map(figure => figure.hidden).join());
      said.push([...document.images].map(image => image.naturalWidth).join());
      said.push(document.documentElement.scrollWidth <= innerWidth);
      document.title = said.join(" ");
    """
    document, console = show_in_browser(tmp_path / "page.html", tmp_path, script)
    assert console == ""
    title = document.split("<title>")[1].split("</title>")[0]
    assert title == "ba&lt; ab&lt; &lt;ba &lt;ab true,false 30,30 true"


def test_report_of_results(evaluation, tmp_path):
    sections = result_sections(evaluation, count=3)
    text = render("results", sections)
    checker = check_page(text)
    for name in ("circle", "square", "triangle", "background", "nothing (missed)"):
        assert name in checker.text
    assert text.count("data:image/jpeg") == 3
    assert checker.text.index("Boxes of each class") < checker.text.index("Masks of each class")
    if CHROMIUM:
        write_page(tmp_path / "results.html", "results", sections)
        document, console = show_in_browser(tmp_path / "results.html", tmp_path)
        assert console == ""
        assert document.count("<svg") == 3


def test_a_curve_of_one_point_can_be_seen():
    for smoothed in (False, True):
        figure = lines({"loss": (np.array([4]), np.array([0.5]))}, "loss", smoothed)
        if legend := figure.axes[0].get_legend():
            legend.remove()
        figure.canvas.draw()
        image = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
        assert (np.abs(image - (0x2F, 0x7F, 0xD0)).max(2) < 40).sum() > 8
    [line] = lines({"b": (np.arange(50), np.ones(50))}, "b").axes[0].lines
    assert line.get_marker() == "None"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.slow
def test_pictures_of_all_shapes_fill_their_rows(tmp_path):
    """Those of a row are equally high, and reach from one margin to the other; only the last row may end earlier."""
    shapes = [(60, 40), (60, 40), (40, 60), (40, 120), (60, 30)] * 4
    parts = [Picture(f"p{i}", np.zeros((*shape, 3), np.uint8), "caption") for i, shape in enumerate(shapes)]
    write_page(tmp_path / "page.html", "x", [Section("images", parts)])
    script = """
      const rows = {}, box = document.querySelector(".pictures").getBoundingClientRect();
      for (const image of document.images) {
        const place = image.getBoundingClientRect();
        (rows[Math.round(place.top)] ??= []).push(place);
      }
      const all = Object.values(rows), full = all.slice(0, -1);
      const same = all.every(row => Math.max(...row.map(p => p.height)) - Math.min(...row.map(p => p.height)) < 8);
      const whole = full.every(row => box.right - row.at(-1).right < 20);
      document.title = [all.length > 1, all[0].length > 1, same, whole].join(" ");
    """
    document, console = show_in_browser(tmp_path / "page.html", tmp_path, script)
    assert console == ""
    assert document.split("<title>")[1].split("</title>")[0] == "true true true true"


def test_files(sections, tmp_path):
    files = write_files(tmp_path / "files", sections)
    assert sorted(path.name for path in files) == ["c.png", "p0.jpg", "p1.jpg", "t.csv"]
    with open(tmp_path / "files/t.csv", newline="") as file:
        assert list(csv.reader(file))[1:] == [["b", "2", ""], ["a", "10", "0.25"], [NASTY, "1", "0.5"]]
    assert cv2.imread(str(tmp_path / "files/p0.jpg")).shape == (20, 30, 3)
    assert cv2.imread(str(tmp_path / "files/c.png")).std() > 1


def test_names_of_files_lead_nowhere(tmp_path):
    """Ids of images are part of them, and come from annotation files."""
    names = ("train_../../x", "/tmp/train_1", "train_1\n", "Train_1", "train_1", "con")
    image = np.zeros((4, 4, 3), np.uint8)
    parts = [Picture(name, image, "caption") for name in names]
    files = write_files(tmp_path / "a/files", [Section("images", parts)])
    assert len({str(path).casefold() for path in files}) == len(names)
    assert all(path.resolve().is_relative_to(tmp_path / "a/files") and path.is_file() for path in files)
    assert {path.name for path in tmp_path.iterdir()} == {"a"}


def test_readable():
    assert [readable(one) for one in ("a", 1234, 0.5, None)] == ["a", "1,234", "0.500", "-"]


def test_classes_have_the_colors_of_the_pictures():
    blue, green, red = class_color(3)
    assert rgb(3) == (red / 255, green / 255, blue / 255)
