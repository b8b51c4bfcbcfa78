"""The model's parts: known types, known keys, channels that fit."""

import inspect
import re
from typing import Any

import mmdet.registry
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import Registry

from ..config.channels import plain, readers, wanted_channels
from ..config.parts import find_registered, known_channels, registered, walk
from ..errors import ConfigError, did_you_mean

_PARTS = re.compile(r"(?:model|backbone|neck|data_preprocessor|\w+_head)(?:\.\d+)?$")
_PACKAGE = __name__.partition(".")[0] + "."
# From the fourth on: read by who builds optimizers and hooks.
_NOT_ARGUMENTS = {"type", "_scope_", "_delete_", "paramwise_cfg", "constructor", "priority"}


def check_types(cfg: Config) -> None:
    """Checks that the types of the model and its main parts are registered.

    Raises:
        ConfigError: One is not.
    """
    for path, node in walk(cfg.get("model"), "model"):
        name = node.get("type")
        if isinstance(name, str) and _PARTS.search(path) and find_registered(MODELS, name) is None:
            hint = "" if "." in name else did_you_mean(name, MODELS.module_dict)
            raise ConfigError(
                f"{path}.type '{name}' is not a registered model{hint}: correct it, or name its package in "
                "custom_imports."
            )


def check_keys(cfg: Config) -> None:
    """Checks the keys of everything in `cfg` that this package registers.

    Raises:
        ConfigError: A key that the class does not take.
    """
    ours = _registered_here()
    for path, node in walk(cfg._cfg_dict.to_dict()):
        kind = node.get("type")
        cls = ours.get(kind.rpartition(".")[2]) if isinstance(kind, str) else kind
        if not isinstance(cls, type) or cls not in ours.values():
            continue
        taken = arguments(cls)
        unknown = [key for key in node if key not in taken | _NOT_ARGUMENTS]
        if unknown:
            hints = ", ".join(f"{key}{did_you_mean(key, taken)}" for key in unknown)
            raise ConfigError(
                f"{path} has keys that {cls.__name__} does not take: {hints}; correct or remove them, or "
                "drop what a parent config left there with _delete_=True."
            )


def check_backbone(cfg: Config) -> None:
    """Checks that backbones accept their arguments and give the channels that necks and heads expect.

    Raises:
        ConfigError: They do not; for channels the sentence has both lists.
    """
    for path, node in walk(cfg.get("model"), "model"):
        backbone = node.get("backbone")
        if not isinstance(backbone, dict) or not (parts := list(readers(node))):
            continue
        channels = (
            _measured_channels(backbone, f"{path}.backbone", "meta")
            or known_channels(backbone)
            or _measured_channels(backbone, f"{path}.backbone", "cpu")
        )
        if channels is None:
            continue
        for key, part in parts:
            expected, wanted = plain(part["in_channels"]), wanted_channels(part, channels)
            # Sorted, because YOLOv3's neck counts from the deepest map.
            if wanted is not None and _sorted(wanted) != _sorted(expected):
                raise ConfigError(
                    f"{path}.backbone {backbone['type']} gives maps with {list(channels)} channels, but "
                    f"{path}.{key}.in_channels is {expected}: set it to {wanted}."
                )


def _sorted(channels: Any) -> list[int]:
    return sorted(channels) if isinstance(channels, list) else [channels]


def arguments(cls: type) -> set[str]:
    """Names of the arguments that a class takes, those behind its `**kwargs` included."""
    names: set[str] = set()
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names - {"self"}


def _registered_here() -> dict[str, type]:
    registries = [value for value in vars(mmdet.registry).values() if isinstance(value, Registry)]
    entries = [entry for registry in registries for entry in registry.module_dict.items()]
    return {name: cls for name, cls in entries if isinstance(cls, type) and cls.__module__.startswith(_PACKAGE)}


def _measured_channels(backbone: dict, path: str, device: str) -> tuple[int, ...] | None:
    """Channels of the maps for a small image; None where the backbone cannot be tried on this device.

    On the meta device nothing is allocated or computed, but some backbones ask a tensor for its value.
    """
    cls = registered(MODELS, backbone)
    try:
        with torch.device(device), torch.no_grad(), torch.random.fork_rng(devices=[]):
            net = MODELS.build(dict(backbone))
            net.eval()
            return tuple(level.shape[1] for level in net(torch.zeros(1, 3, 128, 128)))
    except Exception as error:  # another package's model: whatever stops it here, the runner will say
        if isinstance(error, (TypeError, ValueError)) and getattr(cls, "__module__", "").startswith(_PACKAGE):
            raise ConfigError(f"{path} {getattr(cls, '__name__', cls)}: {error}") from error
        return None
