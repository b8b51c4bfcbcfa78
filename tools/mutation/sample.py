"""Single-line mutants of the package: what may stand in a node's place, and where."""

import ast
import copy
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SWAPS = {"Add": "Sub", "Mult": "Div", "FloorDiv": "Mult", "Mod": "FloorDiv", "Pow": "Mult", "Lt": "LtE", "Gt": "GtE"}
SWAPS |= {"Eq": "NotEq", "Is": "IsNot", "In": "NotIn", "And": "Or", "BitAnd": "BitOr"}
SWAPS = {new: old for old, new in SWAPS.items()} | SWAPS
SYMMETRIC = {"max", "min", "maximum", "minimum", "transpose"}  # the order of their arguments changes nothing
QUIET = {"print_log", "warn", "warning", "info", "extra_repr", "TypeVar", "cast"}
Mutant = tuple[Path, tuple, int, int, str]  # file, way to the node, which of its changes, line, description


def changed(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what may stand in a node's place."""
    new = copy.deepcopy(node)
    if type(getattr(new, "op", None)).__name__ in SWAPS and not isinstance(new, ast.UnaryOp):
        new.op = getattr(ast, SWAPS[type(new.op).__name__])()
        yield new
    match new:
        case ast.Compare():
            new.ops[0] = getattr(ast, SWAPS[type(new.ops[0]).__name__])()
            yield new
        case ast.UnaryOp():
            yield new.operand
        case ast.Constant(value=int() | float()):
            # A limit of a million and one is no other limit.
            other = new.value + 1 if abs(new.value) < 100 else 2 * new.value
            new.value = not new.value if isinstance(new.value, bool) else other
            yield new
        case ast.Return(value=ast.AST() as value) if ast.unparse(value) != "None":
            new.value = ast.Constant(None)
            yield new
        case ast.IfExp():
            new.body, new.orelse = new.orelse, new.body
            yield new
        case ast.If() | ast.While():
            new.test = ast.UnaryOp(ast.Not(), new.test)
            yield new
        case ast.Call(args=[a, b, *_]) if ast.dump(a) != ast.dump(b) and _name(new) not in SYMMETRIC:
            new.args[:2] = b, a
            yield new
        case ast.Expr() | ast.AugAssign() | ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()


def _name(call: ast.AST) -> str:
    return ast.unparse(call.func).split(".")[-1] if isinstance(call, ast.Call) else ""


def places(node: ast.AST, path: tuple = ()) -> Iterator[tuple[tuple, ast.AST]]:
    """Yield the nodes below one that may be changed, with the way to each."""
    for field, value in ast.iter_fields(node):
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            inner = child.value if isinstance(child, ast.Expr) else child
            name = getattr(child, "name", None) or _name(inner)
            quiet = isinstance(child, (ast.Raise, ast.JoinedStr)) or name in QUIET or not isinstance(child, ast.AST)
            quiet |= inner is not child and isinstance(inner, ast.Constant)
            quiet |= isinstance(child, ast.keyword) and child.arg == "strict"  # of zip: a check of the code by itself
            if not quiet and field not in ("annotation", "returns", "decorator_list"):
                yield (*path, (field, index)), child
                yield from places(child, (*path, (field, index)))


def mutants(room: str) -> Iterator[Mutant]:
    """Yield all mutants of a subpackage."""
    for file in sorted((ROOT / "localvit_det" / room).rglob("*.py")):
        for path, node in places(ast.parse(file.read_text())):
            for i, new in enumerate(changed(node)):
                texts = [ast.unparse(ast.fix_missing_locations(n)).split("\n")[0] for n in (node, new)]
                yield file, path, i, node.lineno, " -> ".join(texts)


def mutated(file: Path, path: tuple, number: int) -> ast.Module:
    """Return a file with one change."""
    tree = node = ast.parse(file.read_text())
    for field, index in path:
        parent, node = node, getattr(node, field) if index is None else getattr(node, field)[index]
    new = ast.copy_location(list(changed(node))[number], node)
    setattr(parent, field, new) if index is None else getattr(parent, field).__setitem__(index, new)
    return ast.fix_missing_locations(tree)
