"""Small files that were made to take all time or memory: each is refused at once, in a sentence."""

import io
import json
import os
import pickle
import resource
import struct
import time
import zipfile

import numpy as np
import pytest
import torch
from checkpoint_cases import Runs

from localvit_det.checkpoint.exported import is_exported, read_info
from localvit_det.checkpoint.publish import publish
from localvit_det.checkpoint.read import BuildLimit, load_weights_only
from localvit_det.checkpoint.safe_pickle import TooLarge, check_tuples, restore
from localvit_det.errors import CheckpointError


def doubled(depth: int):
    value = ()
    for _ in range(depth):
        value = (value, value)
    return value


def nested(depth: int):
    value = ()
    for _ in range(depth):
        value = (value,)
    return value


def with_pickle(path, content: bytes, compressed: int = zipfile.ZIP_STORED):
    """A checkpoint with such a data.pkl."""
    torch.save({"state_dict": {"w": torch.zeros(1)}}, file := io.BytesIO())
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w", compressed) as new:
        for member in old.namelist():
            new.writestr(member, content if member.endswith("data.pkl") else old.read(member))
    return path


def as_key(depth: int) -> bytes:
    """A pickle of a dict with such a tuple as a key, which is never hashed here."""
    inner = pickle.dumps(doubled(depth), 2)[2:-1]
    return b"\x80\x02}" + inner + b"K\x01s."


def tensor_of(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.zeros(1).as_strided(shape, (0,) * len(shape))


def array_of_nothing() -> Runs:
    state = (1, (10**11,), np.dtype("S0"), False, b"")
    return Runs(np.zeros(0).__reduce__()[0], np.ndarray, (0,), b"b", state=state)


def with_an_archive_behind(path, content):
    """A pickle for torch, which looks at the beginning, an archive for zipfile, which looks at the end."""
    torch.save(content, old := io.BytesIO(), _use_new_zipfile_serialization=False)
    path.write_bytes(old.getvalue() + with_pickle(path, b"\x80\x02}.").read_bytes())
    return path


def of_several_disks(path):
    content = with_pickle(path, b"\x80\x02}.").read_bytes()
    path.write_bytes(content[:-22] + struct.pack("<4sLQL", b"PK\6\7", 0, 0, 2) + content[-22:])
    return path


def inflating(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a/data.pkl", "w") as member:
        for _ in range(100):
            member.write(bytes(1 << 20))
    return path


def saved(path, content):
    torch.save(content, path)
    return path


def safetensors(path, header: bytes, length: int | None = None):
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + bytes(8))
    return path


HEADER = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
# Nested lists are built by the pickle itself: pickle.dumps would not get so deep.
BOMBS = {
    "nested tuples": lambda path: saved(path, {"state_dict": {"w": torch.zeros(1)}, "meta": doubled(60)}),
    "tuples in the old format": lambda path: torch.save({"m": doubled(60)}, path, _use_new_zipfile_serialization=False),
    "tuples before an archive": lambda path: with_an_archive_behind(path, {"m": doubled(60)}),
    "archive of several disks": of_several_disks,
    "tuples as a key": lambda path: with_pickle(path, as_key(60)),
    "deep tuples": lambda path: with_pickle(path, b"\x80\x02)" + b"\x85" * 200_000 + b"."),
    "deep lists": lambda path: with_pickle(path, b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b"."),
    "archive that inflates": inflating,
    "view of 10^11 numbers": lambda path: saved(path, {"state_dict": {"w": tensor_of((100_000, 1_000_000))}}),
    "many views": lambda path: saved(path, {"state_dict": {f"w{i}": tensor_of((1000, 1000)) for i in range(500)}}),
    "sparse tensor": lambda path: saved(
        path, {"w": torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.long), torch.ones(1), (10**9, 10**9))}
    ),
    "long array of nothing": lambda path: with_pickle(path, pickle.dumps({"a": array_of_nothing()}, 2)),
    "header longer than the file": lambda path: safetensors(path.with_suffix(".safetensors"), b"{}", 2**62),
    "tensors outside the file": lambda path: safetensors(
        path.with_suffix(".safetensors"), json.dumps({"w": {**HEADER, "data_offsets": [0, 2**40]}}).encode()
    ),
    "shape of more than there is": lambda path: safetensors(
        path.with_suffix(".safetensors"), json.dumps({"w": {**HEADER, "shape": [2**40, 2**40]}}).encode()
    ),
    "header of no JSON": lambda path: safetensors(path.with_suffix(".safetensors"), b"[" * 100_000),
}


@pytest.mark.parametrize("case", BOMBS)
def test_refused_before_memory_is_taken(case, tmp_path):
    file = BOMBS[case](tmp_path / "file.pth") or tmp_path / "file.pth"
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(CheckpointError) as caught:
        load_weights_only(file)
    assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_names_of_globals_stay_in_one_short_line(tmp_path):
    """Texts of any kind may stand where a pickle of protocol 4 names what it calls."""
    text = "a\nb" * 1000
    content = b"\x80\x04\x8c\x01a" + b"X" + struct.pack("<L", len(text)) + text.encode() + b"\x93."
    with pytest.raises(CheckpointError, match="could run code") as caught:
        load_weights_only(with_pickle(tmp_path / "file.pth", content))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    long = b"\x80\x04\x93" + 9000 * b"N" + b"."  # from an empty stack; checksums come with the last piece
    archive = bytearray(with_pickle(tmp_path / "file.pth", long).read_bytes())
    archive[archive.index(b"PK\1\2") + 16] ^= 1  # of the checksum
    (tmp_path / "file.pth").write_bytes(archive)
    with pytest.raises(CheckpointError):
        load_weights_only(tmp_path / "file.pth")
    content = content[:-1] + b"\x8d" + struct.pack("<Q", 2**62)  # a text of so many bytes
    with pytest.raises(CheckpointError):
        load_weights_only(with_pickle(tmp_path / "file.pth", content))


def test_damaged_archive_is_no_exported_detector(tmp_path):
    assert not is_exported(of_several_disks(tmp_path / "file.pt"))
    assert not is_exported(tmp_path / "nothing.pt")


def test_publishing_a_view_without_end(tmp_path):
    content = {"state_dict": {"w": tensor_of((100_000, 1_000_000))}, "meta": {"dataset_meta": {"classes": ["a"]}}}
    with pytest.raises(CheckpointError, match="holds tensors of 400,000,000,000 bytes"):
        publish(saved(tmp_path / "file.pth", content), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.pth"))


def test_what_checkpoints_hold_is_no_bomb(tmp_path):
    weight = torch.randn(64, 64)
    names = tuple(f"class {i}" for i in range(13_000))
    content = {
        "state_dict": {f"w{i}": weight for i in range(50)},
        "meta": {"classes": names, "palette": [(1, 2, 3)] * 99},
    }
    content["state_dict"]["view"] = weight[:, :1].expand(64, 64)
    loaded = load_weights_only(saved(tmp_path / "file.pth", content))
    assert loaded["meta"]["classes"] == names
    assert loaded["state_dict"]["view"].equal(content["state_dict"]["view"])
    assert loaded["state_dict"]["w49"].equal(weight)


def test_rows_of_numbers_count_before_they_are_made():
    for make in (lambda: torch.arange(10**12), lambda: torch.linspace(0, 1, 10**12), lambda: torch.empty(10**6, 10**6)):
        with BuildLimit(1000), pytest.raises(TooLarge):
            make()
    with BuildLimit(1000):
        assert torch.linspace(0, 1, 10**6)[-1] == 1
        assert torch.full((), 10.0**12) == 10.0**12


LAYER = '<layer id="1" name="c" type="Const"><data element_type="f32" offset="{}" size="{}" shape="{}" /></layer>'
GOOD = LAYER.format(0, 32, "2, 4")


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (LAYER.format(0, 4 << 20, "1000"), "1,000 numbers in 4,194,304 bytes from 0 on, where net.bin has 1,048,576"),
        (LAYER.format(1 << 20, 4, "1"), "1 numbers in 4 bytes from 1,048,576 on"),
        (LAYER.format(-32, 32, "8"), "in 32 bytes from -32 on"),
        (LAYER.format(2**64 - 16, 32, "8"), "from 18,446,744,073,709,551,600 on"),
        (LAYER.format(0, -4, "1"), "in -4 bytes"),
        (LAYER.format(0, 16, f"2, {2**61 + 1}"), "4,611,686,018,427,387,906 numbers in 16 bytes"),  # 2 * 8 in 64 bits
        (LAYER.format("x", 4, "1"), "invalid literal for int"),
        (LAYER.format(0, 1 << 20, "262144") * 70, "holds constants of 73,400,320 bytes, and has 1,048,576"),
        (f"{GOOD}<layer>", "mismatched tag"),
    ],
)
def test_openvino_files_that_take_more_than_their_weights(layers, words, tmp_path):
    pytest.importorskip("openvino")
    (tmp_path / "net.bin").write_bytes(bytes(1 << 20))
    (tmp_path / "net.xml").write_text(f"<net><layers>{layers}</layers></net>")
    with pytest.raises(CheckpointError, match=words):
        read_info(tmp_path / "net.xml")


def test_weights_of_openvino_that_are_no_file(tmp_path):
    pytest.importorskip("openvino")
    (tmp_path / "net.xml").write_text(f"<net><layers>{GOOD}</layers></net>")
    with pytest.raises(CheckpointError, match=r"8 numbers in 32 bytes from 0 on, where net\.bin has 0 bytes"):
        read_info(tmp_path / "net.xml")
    os.mkfifo(tmp_path / "net.bin")
    with pytest.raises(CheckpointError, match=r"net\.bin for its weights, which is no file"):
        read_info(tmp_path / "net.xml")


def test_tuples_are_restored_once():
    value = doubled(60)
    result = restore({"a": value, "b": [value]})
    assert result["b"][0] is result["a"]
    with pytest.raises(TooLarge):
        check_tuples(io.BytesIO(pickle.dumps(value)))
    check_tuples(io.BytesIO(pickle.dumps((nested(50), doubled(10)))))
