"""Exported models as files: what takes more than it holds."""

import json
import os
import struct
import zipfile

import pytest
import torch

from localvit_det.checkpoint.exported import NOTE, is_exported, read_info
from localvit_det.errors import CheckpointError


def test_damaged_archive_is_no_exported_detector(tmp_path):
    torch.save({}, tmp_path / "file.pt")
    content = (tmp_path / "file.pt").read_bytes()
    several_disks = struct.pack("<4sLQL", b"PK\6\7", 0, 0, 2)
    (tmp_path / "file.pt").write_bytes(content[:-22] + several_disks + content[-22:])
    assert not is_exported(tmp_path / "file.pt")
    assert not is_exported(tmp_path / "nothing.pt")


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


def test_notes_of_earlier_versions_name_no_outputs(tmp_path):
    note = {"classes": ["a"], "config": "", "size": None, "divisor": 32, "score": 0.05, "mask_threshold": 0.5}
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
        archive.writestr(f"net/extra/{NOTE}", json.dumps(note))
    assert read_info(tmp_path / "net.pt").outputs == ("boxes", "scores", "labels", "masks")
