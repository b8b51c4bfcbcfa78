"""Hooks of MkDocs: pages of the site that are no files in docs/."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def public_packages() -> list[str]:
    """Return the subpackages and modules that say by `__all__` what is public."""
    package, found = ROOT / "localvit_det", []
    for file in (*package.glob("*/__init__.py"), *package.glob("[a-z]*.py")):
        statements = ast.parse(file.read_text(encoding="utf-8")).body
        names = [ast.unparse(s.targets[0]) for s in statements if isinstance(s, ast.Assign)]
        if "__all__" in names:
            found.append(file.parent.name if file.parent != package else file.stem)
    return sorted(found)


def on_config(config: MkDocsConfig) -> None:
    """Name the pages of the API reference in the navigation."""
    [reference] = [entry for entry in config.nav if "API reference" in entry]
    reference["API reference"] = [{f"localvit_det.{name}": f"api/{name}.md"} for name in public_packages()]


def on_page_content(html: str, **_: object) -> str:
    """Show roles of docstrings, as in :class:`Block`, as the code that they name."""
    return re.sub(r":(?:attr|class|func|meth|mod):(?=<code)", "", html)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add pages for files above docs/, with links that fit, and for the API reference."""
    for source, page in OUTSIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = re.sub(r'(\]\(|src=")docs/', r"\1", text)
        for name, target in OUTSIDE.items():
            text = text.replace(f"]({name})", f"]({target})")
        files.append(File.generated(config, page, content=text))
    for name in public_packages():
        content = f"# localvit_det.{name}\n\n::: localvit_det.{name}\n"
        files.append(File.generated(config, f"api/{name}.md", content=content))
