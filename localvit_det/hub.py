"""Backbones and detectors on the Hugging Face Hub, or in folders of its form (the extra `hub`).

A folder has `model.safetensors`, `config.json` and `README.md`, a card written from the config. huggingface_hub's mixin
writes and uploads; reading goes the way of all files of others, so no pickle is opened and nothing is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .files import write_bytes
from .requirements import require

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_CARD = """---
{{ card_data }}
---

# {{ title }}

{{ about }}

```python
{{ code }}
```

```json
{{ config }}
```
"""
Reader = TypeVar("Reader", bound=Callable[..., Any])
_READERS: dict[type, Callable[..., Any]] = {}


def register_reader(kind: type) -> Callable[[Reader], Reader]:
    """Decorate what reads a folder for a class and its subclasses: (class, folder, options) -> the object."""

    def register(reader: Reader) -> Reader:
        _READERS[kind] = reader
        return reader

    return register


@dataclass
class HubFiles:
    """What is written about a model."""

    weights: Mapping[str, Tensor]
    config: dict[str, Any]  # goes into `config.json`
    title: str  # of the card
    about: str  # its text
    task: str  # as the Hub calls it
    metadata: dict[str, str] = field(default_factory=dict)  # of the file of weights


class HubModel:
    """What backbones and detectors get from this module; a subclass says what is written, and registers a reader."""

    def hub_files(self) -> HubFiles:
        """Return what is written."""
        raise NotImplementedError(f"{type(self).__name__} must define hub_files().")

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Write weights, config and card into a folder; `options` as in huggingface_hub's `ModelHubMixin`.

        An existing `README.md` stays.
        """
        files = self.hub_files()
        _writer(files.task)(files).save_pretrained(folder, **{**_about(files, type(self).__name__), **options})

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the same; return the commit's address. `options` as in huggingface_hub's `ModelHubMixin`."""
        files = self.hub_files()
        return _writer(files.task)(files).push_to_hub(repo_id, **{**_about(files, type(self).__name__), **options})

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        **options: Any,
    ) -> Self:
        """Read a folder, or a repository of the Hub, in eval mode.

        Args:
            folder: Path of a folder, or OWNER/NAME on the Hub.
            revision: Branch, tag or commit there.
            cache_dir: Where downloads are kept.
            token: For private repositories.
            local_files_only: Take what was downloaded before.
            force_download: Download again.
            options: Arguments of the constructor that differ from those in the config.

        Raises:
            CheckpointError: A file is missing or broken, does not fit, or asks for more than is allowed.
        """
        if not Path(folder).is_dir():
            require("huggingface_hub")
            from huggingface_hub import snapshot_download

            folder = snapshot_download(
                str(folder),
                allow_patterns=[WEIGHTS, CONFIG],
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                local_files_only=local_files_only,
                force_download=force_download,
            )
        reader = next(_READERS[kind] for kind in cls.__mro__ if kind in _READERS)
        return reader(cls, Path(folder), **options)


def _about(files: HubFiles, kind: str) -> dict[str, Any]:
    """Return the mixin's arguments: the config, and what the card's template takes."""
    import json

    module = "localvit_det" if kind == "Detector" else "localvit_det.backbones"
    code = f'from {module} import {kind}\n\nmodel = {kind}.from_pretrained("FOLDER or OWNER/NAME")'
    card = {"title": files.title, "about": files.about, "code": code, "config": json.dumps(files.config, indent=2)}
    return {"config": files.config, "model_card_kwargs": card}


@cache
def _writer(task: str) -> Callable[[HubFiles], Any]:
    """Return a class that writes: huggingface_hub is imported when it is first needed, and reads `task` off a class."""
    require("huggingface_hub")
    from huggingface_hub import ModelHubMixin
    from safetensors.torch import save

    class Writer(
        ModelHubMixin, library_name="localvit_det", pipeline_tag=task, tags=["localvit_det"], model_card_template=_CARD
    ):
        def __init__(self, files: HubFiles) -> None:
            self.files = files

        def _save_pretrained(self, save_directory: Path) -> None:
            # Each tensor on its own, and in the usual order: the format has no strides.
            weights = {name: value.detach().cpu().contiguous() for name, value in self.files.weights.items()}
            write_bytes(save_directory / WEIGHTS, save(weights, metadata={"format": "pt", **self.files.metadata}))

    return Writer
