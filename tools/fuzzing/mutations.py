"""Changes of valid files: of bytes, of trees (JSON, YAML, XML), of the opcodes of a pickle."""

import copy
import io
import pickletools
import struct
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

NUMBERS = (0, 1, -1, 2, 5, 127, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**64 - 1)
VALUES = (
    *(None, True, False, *NUMBERS, 10**400, -(10**30), 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf")),
    *("", "a", "0", "nan", "\ud800", "\0", "é" * 300, "../x", "/dev/zero", [], {}, [[]], [None], [0, 0, 0, 0]),
    *([[1, 2, 3, 4]], {"": {}}, {"counts": [], "size": []}, {"counts": "o" * 9, "size": [80, 100]}),
)  # fmt: skip
TEXTS = (
    *("", " ", "0", "-1", "1e400", "nan", "inf", "9" * 400, "1_0", "0x10", "½", "é", "1,5", "\u2028", "a" * 3000),
    *("1 2 3 4", "-0", "1e-400", "true", "None", "../..", "/", "a\tb", "\u0661"),
)
_DEEP = 3000


def change_bytes(random: Random, content: bytes, others: Sequence[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """Return a content with one change of its bytes.

    Args:
        others: Contents that a piece may come from.
        tokens: Pieces that mean something in the format.
    """
    at = random.randrange(len(content) + 1)
    end = min(len(content), at + random.choice((1, 1, 2, 4, 8, 64, 4096)))
    kind = random.randrange(8 if tokens else 7)
    if kind == 0 and content:
        bit = random.randrange(8 * len(content))
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)
    if kind == 1:
        number = random.choice(NUMBERS)
        size = random.choice((1, 2, 4, 8))
        piece = (number % 256**size).to_bytes(size, random.choice(("little", "big")))
        return content[:at] + piece + content[at + size :]
    if kind == 2:
        return content[:at] + content[end:]
    if kind == 3:
        return content[:at]
    if kind == 4:
        other = random.choice(others)
        start = random.randrange(len(other) + 1)
        return content[:at] + other[start : start + end - at] + content[random.choice((at, end)) :]
    if kind == 5:
        return content[:at] + content[at:end] * random.choice((2, 3, 100)) + content[end:]
    if kind == 6 or not tokens:
        return content[:at] + random.randbytes(end - at) + content[end:]
    return (
        content[:at] + random.choice(tokens) * random.choice((1, 1, 1, 2, _DEEP)) + content[random.choice((at, end)) :]
    )


def change_tree(random: Random, tree: Any, values: Sequence[Any] = VALUES) -> Any:
    """Return a copy of dicts, lists and values with one change at a random place."""
    tree = copy.deepcopy(tree)
    places = list(_places(tree))
    if not places:
        return random.choice(values)
    holder, key = random.choice(places)
    kind = random.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        other, at = random.choice(places)
        holder[key] = copy.deepcopy(other[at])
    elif kind == 2 and isinstance(holder, list):
        holder[key:key] = [copy.deepcopy(holder[key])] * random.choice((1, 2, 50))
    elif kind == 2:
        holder[random.choice([*(value for value in values if isinstance(value, str)), *holder])] = holder.pop(key)
    elif kind == 3 and type(holder[key]) in (int, float):
        holder[key] = random.choice((-1, 0.5, 1e3, 1e20)) * holder[key] + random.choice((-1, 0, 1))
    else:
        holder[key] = random.choice(values)
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(tree[key])


def change_xml(random: Random, content: bytes) -> bytes:
    """Return a document with one change of its elements; other texts as they are."""
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError):
        return content
    elements = list(root.iter())
    one, other = random.choice(elements), random.choice(elements)
    kind = random.randrange(5)
    if kind == 0:
        one.text = random.choice(TEXTS)
    elif kind == 1:
        one.tag = other.tag
    elif kind == 2 and len(one):
        one.remove(random.choice(list(one)))
    elif kind == 3:
        one.append(copy.deepcopy(other))
    else:
        one.text = other.text
    return ElementTree.tostring(root)


def change_pickle(random: Random, content: bytes) -> bytes:
    """Return a pickle with one opcode removed, repeated, moved or with another argument."""
    try:
        starts = [position for _, _, position in pickletools.genops(content)]
    except Exception:  # an earlier change has broken it
        return change_bytes(random, content, [content])
    pieces = [content[a:b] for a, b in zip(starts, [*starts[1:], len(content)], strict=True)]
    at, other = random.randrange(len(pieces)), random.randrange(len(pieces))
    kind = random.randrange(6)
    if kind == 0:
        del pieces[at]
    elif kind == 1:
        pieces[at:at] = [pieces[other]] * random.choice((1, 2, 40))
    elif kind == 2:
        pieces[at], pieces[other] = pieces[other], pieces[at]
    elif kind == 3:
        pieces.insert(at, bytes([random.choice(b"012()]}tRbsuaNQ\x85")]))
    elif kind == 4:
        number = random.choice(NUMBERS) % 2**31
        pieces[at] = b"J" + number.to_bytes(4, "little")
    else:
        pieces[at] = pieces[at][:1] + change_bytes(random, pieces[at][1:], [content])
    return b"".join(pieces)


def change_zip(random: Random, content: bytes) -> bytes:
    """Return an archive whose pickle is another one; other contents as they are."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:
        return content
    for name in members:
        if name.endswith("data.pkl"):
            members[name] = change_pickle(random, members[name])
    if random.randrange(8) == 0:
        name = random.choice(list(members))
        members[name] = change_bytes(random, members[name], [content])
    if random.randrange(16) == 0 and len(members) > 1:
        del members[random.choice(list(members))]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", random.choice((zipfile.ZIP_STORED,) * 7 + (zipfile.ZIP_DEFLATED,))) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return packed.getvalue()


def split_safetensors(content: bytes) -> tuple[bytes, bytes]:
    """Return the JSON before the tensors, and the tensors."""
    length = struct.unpack("<Q", content[:8])[0] if len(content) >= 8 else 0
    return content[8 : 8 + length], content[8 + length :]


def join_safetensors(header: bytes, tensors: bytes) -> bytes:
    """Return a file of both parts."""
    return struct.pack("<Q", len(header)) + header + tensors
