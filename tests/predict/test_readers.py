"""Read pages and frames, also of files of a few bytes that decode to gigabytes."""

import io
import struct
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from coco_folder import png_of
from PIL import Image, ImageFile

from localvit_det.datasets.images import BrokenImageError
from localvit_det.errors import DataError
from localvit_det.predict.readers import read_pages
from localvit_det.predict.sources import Sources

SIDE = 16_000  # 256 million pixels, as many as FFmpeg decodes


def gif(width: int, height: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return head + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00;"


def webp(width: int, height: int) -> bytes:
    """An animation of one small image on a large canvas."""
    Image.new("RGB", (8, 8)).save(small := io.BytesIO(), "WEBP", lossless=True)
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    frame = bytes(6) + (7).to_bytes(3, "little") * 2 + (100).to_bytes(3, "little") + b"\0" + small.getvalue()[12:]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes([2, 0, 0, 0]) + size
    body += b"ANIM" + struct.pack("<I", 6) + bytes(6) + b"ANMF" + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff(width: int, height: int) -> bytes:
    tags = [(256, width), (257, height), (258, 8), (259, 5), (262, 1), (273, 8), (277, 1), (278, height), (279, 4)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 12) + b"\x80\x00\x80\x00" + struct.pack("<H", len(tags)) + entries + bytes(4)


def hdr(width: int, height: int) -> bytes:
    """Of a format that OpenCV decodes and Pillow does not know."""
    return b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n" % (height, width) + bytes(1000)


CASES = {"huge.png": png_of, "huge.webp": webp, "huge.tif": tiff, "hdr.jpg": hdr, "huge.gif": gif, "gif.mp4": gif}


@pytest.mark.parametrize("name", CASES)
def test_large_images_and_videos(name, tmp_path):
    path = Path(tmp_path, name)
    path.write_bytes(CASES[name](SIDE, SIDE))
    start = time.process_time()
    with pytest.raises(DataError, match=r"over the limit|does not tell its size") as caught:
        next(iter(Sources(path)))
    assert time.process_time() - start < 2
    assert "\n" not in str(caught.value)


def test_limit_of_the_config_holds_for_videos(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    assert len(list(Sources(tmp_path / "clip.avi", max_pixels=64 * 48))) == 1
    with pytest.raises(DataError, match="frames of 64 x 48 pixels, over the limit of 3,000"):
        list(Sources(tmp_path / "clip.avi", max_pixels=3000))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_pages_are_counted_after_the_size_is_known(kind, monkeypatch):
    image = Image.new("RGB", (40, 40))
    image.save(stream := io.BytesIO(), kind, save_all=True, append_images=[Image.new("RGB", (40, 40), "red")])
    assert len(list(read_pages(stream.getvalue(), 1600))) == 2
    loaded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: loaded.append(image))
    with pytest.raises(BrokenImageError, match="has 40 x 40 pixels"):
        list(read_pages(stream.getvalue(), 1599))
    assert loaded == []


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_each_page_of_an_animation_is_decoded_once(kind, monkeypatch):
    """A page builds on the ones before it: to begin anew for each takes the square of their number."""
    pages = [Image.new("RGB", (8, 8), (10 * index, 0, 0)) for index in range(20)]
    pages[0].save(stream := io.BytesIO(), kind, save_all=True, append_images=pages[1:], lossless=True)
    opened = []
    monkeypatch.setattr(Image, "open", lambda file, open=Image.open: opened.append(file) or open(file))
    found = [page[0, 0, 2] for _, _, page in read_pages(stream.getvalue(), 64)]
    assert found == [10 * index for index in range(20)]
    assert len(opened) < 8


@pytest.mark.parametrize("suffix", ["tif", "webp", "png", "avif", "gif"])
def test_pages(tmp_path, suffix):
    pages = [Image.fromarray(np.full((64, 64, 3), 60 * index, np.uint8)) for index in range(1, 4)]
    pages[0].save(tmp_path / f"p.{suffix}", save_all=True, append_images=pages[1:], duration=100)
    frames = list(Sources(tmp_path / f"p.{suffix}"))
    assert [frame.index for frame in frames] == [0, 1, 2]
    np.testing.assert_allclose([frame.image.mean() for frame in frames], [60, 120, 180], atol=6)
    assert frames[0].rate == (1 if suffix == "tif" else 10)
    assert [frame.index for frame in Sources(tmp_path / f"p.{suffix}", every=2)] == [0, 2]
