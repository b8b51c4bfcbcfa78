"""Checks of a page: well-formed, sufficient to itself, and shown by a browser without complaint."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "img", "br", "input", "hr"}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Checker(HTMLParser):
    """Follows the tags; notes what does not fit and whatever a browser would fetch."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.problems: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list) -> None:
        for key, value in attrs:
            if key in ("src", "href", "xlink:href", "srcset", "poster", "action", "data"):
                self.fetched.append(value)
            if key == "id":
                self.ids.append(value)
            self.fetched += re.findall(r"url\(([^)]*)\)", value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "script"):
            self.fetched += re.findall(r"url\(([^)]*)\)|@import (\S+)|(https?://\S+)|fetch\(", data)
        else:
            self.text += data


def check_page(text: str) -> Checker:
    """Fails where a page is broken or asks for something outside itself."""
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert text.startswith("<!DOCTYPE html>")
    assert checker.problems == []
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    inside = {f"#{identity}" for identity in checker.ids}
    outside = [one for one in checker.fetched if not one.startswith("data:") and one not in inside]
    assert outside == []
    return checker


def show_in_browser(path: Path, tmp_path: Path, script: str = "") -> tuple[str, str]:
    """Loads a page in Chromium; returns the document as it then is, and what the console said.

    Args:
        path: The page.
        tmp_path: For the browser's own files.
        script: What to do in the page when it is loaded.
    """
    copy = tmp_path / "shown.html"
    copy.write_text(path.read_text() + (f"<script>{script}</script>" if script else ""))
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    done = subprocess.run(
        [CHROMIUM, *options, f"--user-data-dir={tmp_path / 'browser'}", f"file://{copy}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
