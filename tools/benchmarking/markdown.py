"""Tables in Markdown, and where they stand in a page."""

import re
from collections.abc import Iterable, Sequence

from localvit_det.errors import UserError


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table with its first columns to the left and the others, numbers, to the right.

    Args:
        head: Names of the columns.
        rows: As many cells each.
        left: Columns to the left.
    """
    rule = [*["---"] * left, *["---:"] * (len(head) - left)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def with_block(page: str, name: str, content: str) -> str:
    """A page with what stands between `<!-- NAME ... -->` and `<!-- end of NAME -->` exchanged.

    Raises:
        UserError: The page has no such block.
    """
    pattern = rf"(<!-- {name}\b[^>]*-->\n).*?(<!-- end of {name} -->)"
    changed, found = re.subn(pattern, lambda m: f"{m[1]}\n{content}\n\n{m[2]}", page, flags=re.DOTALL)
    if found != 1:
        raise UserError(f"The page needs one block from <!-- {name} --> to <!-- end of {name} -->, and has {found}.")
    return changed
