"""The rooms of the package import each other one way only, imports inside functions included."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import localvit_det

PACKAGE = Path(localvit_det.__file__).parent
LONGEST = 400  # lines of a file that can be read at one sitting


class WithoutTypes(ast.NodeTransformer):
    """Drops what is imported for a type's name alone, and not at run time."""

    def visit_If(self, node: ast.If) -> ast.If | None:
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


def imported(file: Path) -> set[str]:
    """Rooms (modules and folders right below the package) that a file imports from."""
    here = file.relative_to(PACKAGE).parts[:-1]
    names = set()
    for node in ast.walk(WithoutTypes().visit(ast.parse(file.read_text(encoding="utf-8")))):
        if isinstance(node, ast.ImportFrom) and node.level:
            path = [*here[: len(here) - node.level + 1], *(node.module or "").split(".")]
            path = [part for part in path if part]
            names |= {path[0]} if path else {alias.name for alias in node.names}
    return names - {"__version__"}


def test_no_circle():
    graph: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room != "__init__":  # it imports every subpackage
            graph.setdefault(room, set()).update(imported(file) - {room})
    assert len(graph) > 8
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
    assert not graph["backbones"] & {"checkpoint", "config", "patches", "datasets"}
    assert not graph["checkpoint"] & {"config", "engine", "predict", "preflight"}  # which read checkpoints
    assert not graph["ops"] - {"errors", "deprecation", "requirements"}
    assert not [room for room, names in graph.items() if "patches" in names]  # the package itself applies it


def test_no_long_file():
    files = [file for folder in (PACKAGE, PACKAGE.parent / "localvit") for file in folder.rglob("*.py")]
    lines = {str(file): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert len(lines) > 100
    assert not {file: count for file, count in lines.items() if count > LONGEST}
