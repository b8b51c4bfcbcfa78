"""What people do with any network in PyTorch, with ours and with timm's: `python -m benchmarks.contract`.

Prints the cases of `tests/contract/` as a table: yes, no with the error in which the case ended, or "-" where a network
has no such thing. The cases were written for networks of this package: why one of others ends in an error has to be
looked at.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from .results import markdown_table

_TESTS = Path(__file__).parents[1] / "tests"
MakeNet = Callable[..., nn.Module]
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {  # small ones of timm; their feature maps are those of `features_only`
    "Swin (timm)": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 64, "strict_img_size": False, "embed_dim": 32, "depths": (2, 2, 2, 2)},
    ),
    "ConvNeXt (timm)": ("convnext_tiny", {"dims": (32, 64, 128, 256), "depths": (1, 1, 1, 1)}),
}


def outcome(
    case: Callable[[Callable[..., nn.Module]], None], make_net: Callable[..., nn.Module], absent: type[Exception]
) -> str:
    """Return a cell of the table."""
    try:
        case(make_net)
    except absent:
        return "-"
    except Exception as error:  # whatever a network of others raises is the finding
        return f"no ({type(error).__name__})"
    return "yes"


def makers() -> dict[str, MakeNet]:
    """Return what makes each network."""
    import timm
    from families import FAMILIES, build  # of tests/

    found: dict[str, MakeNet] = {name: functools.partial(build, name, window_size=5) for name in FAMILIES}
    for label, (name, settings) in OTHERS.items():
        found[label] = functools.partial(timm.create_model, name, features_only=True, drop_path_rate=0.0, **settings)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run all cases with all networks, or with those whose names hold the arguments; print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chosen", nargs="*", help="parts of names of networks")
    chosen = parser.parse_args(argv).chosen
    sys.path.insert(0, str(_TESTS))  # the cases, and the small networks of the tests
    from contract import CASES, NotApplicable  # of tests/

    networks = {name: make for name, make in makers().items() if not chosen or any(one in name for one in chosen)}
    rows = []
    for case in CASES.values():
        purpose = (case.__doc__ or case.__name__).strip().splitlines()[0].rstrip(".")
        rows.append((purpose, *(outcome(case, make, NotApplicable) for make in networks.values())))
    versions = (f"{name} {version(name)}" for name in ("torch", "timm"))
    print(f"Of {', '.join(versions)}:\n\n{markdown_table(('case', *networks), rows)}")


if __name__ == "__main__":
    main()
