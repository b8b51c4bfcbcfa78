"""Lets `in_channels` of whatever reads a backbone's maps follow, so that a backbone is swapped by its entry alone."""

from collections.abc import Iterator, Mapping, Sequence

from mmengine.config import Config
from mmengine.logging import print_log

from .parts import first_neck, known_channels, walk

# Parts that stand behind a backbone itself where a model has no neck.
_HEADS = ("panoptic_head", "decode_head", "auxiliary_head")


def match_channels(cfg: Config, typed: Sequence[str] = ()) -> None:
    """Lets the neck's or the heads' `in_channels` follow the backbone in every model of a config.

    Args:
        typed: Dotted keys that somebody has set by hand: what they say stays, and preflight tells what does not fit.
    """
    for path, node in walk(cfg.get("model"), "model"):
        channels = known_channels(node.get("backbone"))
        if channels is None:
            continue
        for key, part in readers(node):
            wanted = wanted_channels(part, channels)
            place = f"{path}.{key}.in_channels"
            if wanted is None or place in typed or plain(part["in_channels"]) == wanted:
                continue
            backbone = node["backbone"]["type"]
            message = f"{place} follows the backbone {backbone}: {wanted} instead of {plain(part['in_channels'])}."
            print_log(message, "current")
            part["in_channels"] = wanted


def readers(node: dict) -> Iterator[tuple[str, dict]]:
    """Yields (key, config) of the parts of a model that read the backbone's maps."""
    if node.get("neck"):
        neck = first_neck(node)
        if neck is not None:
            yield "neck", neck
        elif _is_pooling(node):
            yield "head", node["head"]
        # MMSegmentation's auxiliary heads read what is behind the neck.
        return
    for key in _HEADS:
        heads = node.get(key)
        for index, head in enumerate(heads if isinstance(heads, (list, tuple)) else [heads]):
            if isinstance(head, dict) and "in_channels" in head:
                yield key if head is heads else f"{key}.{index}", head


def _is_pooling(node: Mapping) -> bool:
    """Whether a model is a classifier of MMPretrain: its neck pools, its head reads the channels of the last map."""
    neck, head = node["neck"], node.get("head")
    plain_neck = isinstance(neck, dict) and "in_channels" not in neck
    return plain_neck and isinstance(head, dict) and isinstance(head.get("in_channels"), int)


def wanted_channels(part: Mapping, channels: Sequence[int]) -> list[int] | int | None:
    """What `in_channels` has to be; None where it is not known which maps a part reads."""
    index = part.get("in_index", -1)  # MMSegmentation's default, and what a classifier reads
    if isinstance(part["in_channels"], (list, tuple)):
        return [channels[i] for i in index] if isinstance(index, (list, tuple)) else list(channels)
    return channels[index] if isinstance(index, int) else None


def plain(value: object) -> object:
    """A list of channels, whatever holds it, or their number."""
    return list(value) if isinstance(value, (list, tuple)) else value
