"""The files that the authors of the networks published, and `official` as a name for them.

`official_weights.json` has a line for each network: the address that its authors give, the address from which the file
can be downloaded without a browser (empty where there is none), the layout, the size and the accuracy as published.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

OFFICIAL = "official"  # what is given in place of a file
_TABLE = Path(__file__).with_name("official_weights.json")


@dataclass(frozen=True)
class OfficialFile:
    """One line of the table.

    Attributes:
        network: The type of the backbone.
        settings: Its arguments.
        address: Where the authors have the file; empty where they released none.
        direct: Where it can be downloaded from; empty where only a person with a browser gets it.
        layout: What its tensors are called, in words.
        size: As its authors state it.
        top1: ImageNet-1k top-1 accuracy in per cent, as published.
        warm_start: A Swin's file from which it can start instead, where its authors released none.
    """

    network: str
    settings: dict[str, Any]
    address: str
    direct: str
    layout: str
    size: str | None
    top1: float | None
    warm_start: str

    @property
    def advice(self) -> str:
        """Return how to start from it, as the second half of a sentence."""
        if self.direct:
            copy = "" if self.direct == self.address else f", a copy of {self.address}"
            return f"add --pretrained {OFFICIAL}, which downloads {self.direct}{copy}"
        if self.address:
            return f"download the file by hand from {self.address} and add --pretrained FILE"
        own = "pretrain it (docs/tasks.md) and add --pretrained FILE"
        swin = f"add --pretrained {OFFICIAL} --cfg-options warm_start=swin to take what a Swin shares with it, or "
        return f"its authors released no weights, so {swin if self.warm_start else ''}{own}"


@cache
def official_files() -> tuple[OfficialFile, ...]:
    """Return the whole table."""
    return tuple(OfficialFile(**line) for line in json.loads(_TABLE.read_text(encoding="utf-8")))


def official_file(cls: object, settings: Mapping[str, Any]) -> OfficialFile | None:
    """Find the line of a backbone; None for a size that was not published.

    Args:
        cls: Its class.
        settings: Its arguments, as in a config.
    """
    if not isinstance(cls, type):
        return None
    defaults = {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()}
    for line in official_files():
        # A size by its name is none any more where its widths or depths are given, too.
        wanted = {**dict.fromkeys(("embed_dims", "depths") if "arch" in line.settings else ()), **line.settings}
        given = {key: settings.get(key, defaults.get(key)) for key in wanted}
        plain = {key: list(value) if isinstance(value, (list, tuple)) else value for key, value in given.items()}
        if line.network == cls.__name__ and plain == wanted:
            return line
    return None


def official_address(cls: object, settings: Mapping[str, Any], warm_start: bool = False) -> str:
    """Return the address from which a backbone's official file is downloaded.

    Args:
        cls: The backbone's class.
        settings: Its arguments.
        warm_start: Take the Swin's from which it can start, where it has none of its own.

    Raises:
        CheckpointError: There is none; the sentence says what to do instead.
    """
    line = official_file(cls, settings)
    name = getattr(cls, "__name__", cls)
    if line is None:
        raise CheckpointError(
            f"--pretrained {OFFICIAL}: no official file is known for this {name}; `localvit weights` lists those of "
            "all published networks, and any file is taken by --pretrained FILE."
        )
    if warm_start and line.warm_start:
        return line.warm_start
    if not line.direct:
        size = ", ".join(map(str, line.settings.values()))
        raise CheckpointError(f"--pretrained {OFFICIAL} cannot get the weights of {name} {size}: {line.advice}.")
    return line.direct
