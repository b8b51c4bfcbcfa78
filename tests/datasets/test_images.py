"""Image files: boxes lie on their objects however a camera was held, and broken files stop nothing."""

import contextlib
import io
import logging

import numpy as np
import pytest
from coco_folder import annotations, dataset_config, write_coco
from file_counts import counted_files
from mmdet.registry import DATASETS, TRANSFORMS
from PIL import Image

from localvit_det.datasets import images, load_image
from localvit_det.datasets.images import BrokenImageError, decode, read_header
from localvit_det.datasets.load_image import ImagePolicy, LoadImageFromFile, loading_transforms, protect_loading
from localvit_det.errors import DataError
from localvit_det.preflight.images import header_fault, pixel_fault

BOX = (10, 5, 25, 15)  # left, top, right, bottom of what is bright, in the upright image
WIDTH, HEIGHT = 100, 60
TURNS = {  # what a viewer does with pixels as they are stored, by EXIF's orientation; undone here
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def upright() -> np.ndarray:
    image = np.full((HEIGHT, WIDTH, 3), 20, np.uint8)
    left, top, right, bottom = BOX
    image[top:bottom, left:right] = 240
    return image


def photo(orientation: int, kind: str = "JPEG") -> bytes:
    """The upright image as a camera stores it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(TURNS[orientation](upright()))).save(file, kind, exif=exif, quality=95)
    return file.getvalue()


def bright_box(image: np.ndarray) -> tuple[int, ...]:
    rows, columns = np.nonzero(image[..., 0] > 130)
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", TURNS)
def test_annotations_of_the_upright_image(orientation, kind):
    content = photo(orientation, kind)
    assert read_header(content).upright == (WIDTH, HEIGHT)
    for size in (None, (WIDTH, HEIGHT)):
        image = decode(content, size)
        assert image.shape == (HEIGHT, WIDTH, 3)
        assert np.abs(np.subtract(bright_box(image), BOX)).max() <= 1


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_annotations_of_the_image_as_stored(orientation):
    image = decode(photo(orientation), (HEIGHT, WIDTH))  # width and height changed places
    assert image.shape == (WIDTH, HEIGHT, 3)
    stored = TURNS[orientation](upright())
    assert np.abs(np.subtract(bright_box(image), bright_box(stored))).max() <= 1


@pytest.mark.parametrize("stored", [False, True])
def test_boxes_align_through_mmdetections_pipeline(tmp_path, stored):
    size = (HEIGHT, WIDTH) if stored else (WIDTH, HEIGHT)
    left, top, right, bottom = bright_box(TURNS[6](upright())) if stored else BOX
    box = [int(left), int(top), int(right - left), int(bottom - top)]
    content = annotations(1)
    content["images"][0].update(width=size[0], height=size[1])
    for annotation in content["annotations"]:
        annotation.update(bbox=box, segmentation=[[left, top, right, top, right, bottom, left, bottom]])
        annotation["segmentation"] = [[int(v) for v in annotation["segmentation"][0]]]
    write_coco(tmp_path, content)
    file = tmp_path / "train2017/001.jpg"
    file.write_bytes(photo(6))
    assert header_fault(str(file), size, 10**8) == (None, False)
    assert pixel_fault(str(file), size, 10**8) is None
    dataset = DATASETS.build(dataset_config(tmp_path))
    protect_loading(dataset, {})
    sample = dataset[0]
    found = bright_box(sample["inputs"].numpy().transpose(1, 2, 0))
    [boxes, *_] = sample["data_samples"].gt_instances.bboxes.tensor.tolist()
    assert np.abs(np.subtract(found, boxes)).max() <= 1
    mask = sample["data_samples"].gt_instances.masks.to_ndarray()[0]
    assert mask.shape == sample["inputs"].shape[1:]
    assert (sample["inputs"][0].numpy() > 130)[mask > 0].mean() > 0.9


def test_small_differences_of_size_pass():
    decode(photo(1), (WIDTH + 2, HEIGHT - 1))
    with pytest.raises(BrokenImageError, match="100 x 60 pixels and 110 x 60"):
        decode(photo(1), (WIDTH + 10, HEIGHT))


def test_more_pixels_than_the_limit():
    with pytest.raises(BrokenImageError, match=r"100 x 60 pixels, over the limit of 5,000 pixels .*max_pixels=N"):
        decode(photo(1), limit=5000)


def test_headers_of_plain_jpegs_are_read_without_pil(monkeypatch):
    """Of all others PIL says how large they are, before their pixels are decoded."""
    content, opened = photo(6), []
    monkeypatch.setattr(images, "read_header", lambda *args: opened.append(args) or read_header(*args))
    assert decode(content).shape == (HEIGHT, WIDTH, 3)
    assert not opened
    start = content.index(b"\xff\xc0")  # where the size stands
    filled = content[:start] + b"\xff" * 3 + content[start:]
    other = content[:start] + b"\xff\xc3" + content[start + 2 :]  # lossless
    # Filled with another byte, what follows is taken for a length, at the end of which another size stands.
    lying = b"\xff\xd8\xff\xff\xe0\0" + bytes(0xE000 - 2) + b"\xff\xc0\0\x11\x08\0\1\0\1\3"
    for odd in (filled, lying, content[: start + 8], content[:start], other, b"\xff\xd8", photo(1, "PNG")):
        opened.clear()
        with contextlib.suppress(BrokenImageError):
            decode(odd)
        assert opened
    for limit in (WIDTH * HEIGHT - 1, 1):
        for large in (filled, content):
            with pytest.raises(BrokenImageError, match="60 x 100 pixels, over the limit"):
                decode(large, limit=limit)


def test_a_jpeg_whose_pixels_follow_an_earlier_end_is_cut_off():
    whole = photo(1)
    good = (whole, whole + whole, whole + b"trailer of a phone")
    for content, cut in (*((one, False) for one in good), (whole[:-2], True), (whole + whole[:-2], True)):
        with pytest.raises(BrokenImageError, match="cut off") if cut else contextlib.nullcontext():
            images._check_end(content)


# ---------------------------------------------------------------------------------------------- the transform


@pytest.fixture
def logged(monkeypatch):
    lines = []
    monkeypatch.setattr(load_image, "print_log", lambda message, logger, level: lines.append((level, message)))
    return lines


def protected(policy: ImagePolicy = ImagePolicy(), **arguments: object) -> LoadImageFromFile:  # noqa: B008 - frozen
    transform = LoadImageFromFile(**arguments)
    transform.policy = policy
    return transform


@pytest.fixture
def broken(tmp_path):
    def make(name: str = "broken.jpg") -> dict:
        (tmp_path / name).write_bytes(photo(1)[:900])
        return {"img_path": str(tmp_path / name), "width": WIDTH, "height": HEIGHT}

    return make


def test_the_transform_stands_in_every_pipeline(tmp_path):
    transform = TRANSFORMS.build({"type": "LoadImageFromFile", "backend_args": None})
    assert type(transform) is LoadImageFromFile
    (tmp_path / "good.jpg").write_bytes(photo(1))
    results = transform({"img_path": str(tmp_path / "good.jpg")})
    assert results["img_shape"] == results["ori_shape"] == (HEIGHT, WIDTH)


def test_a_file_is_opened_once(tmp_path):
    (tmp_path / "good.jpg").write_bytes(photo(1))
    with counted_files(str(tmp_path)) as opened:
        protected()({"img_path": str(tmp_path / "good.jpg"), "width": WIDTH, "height": HEIGHT})
    assert opened == {str(tmp_path / "good.jpg"): 1}


def test_broken_images_are_skipped_and_named_once(broken, logged):
    transform = protected()
    assert transform(broken()) is None
    assert transform(broken()) is None
    [(level, line)] = logged
    assert level == logging.WARNING
    assert "broken.jpg" in line
    assert "cut off; it is skipped (1 so far" in line


def test_missing_images_are_named_like_broken_ones(logged):
    assert protected()({"img_path": "/nowhere/x.jpg"}) is None
    assert "/nowhere/x.jpg cannot be read (No such file or directory)" in logged[0][1]


def test_too_many_broken_images_stop(broken, logged):
    transform = protected(ImagePolicy(max_broken=2))
    assert [transform(broken(f"{i}.jpg")) for i in (1, 2)] == [None, None]
    with pytest.raises(DataError, match=r"^3 images cannot .*3.jpg.*localvit check CONFIG --images"):
        transform(broken("3.jpg"))


def test_broken_images_stop_on_demand(broken):
    transform = protected(ImagePolicy(on_broken="stop"))
    with pytest.raises(DataError, match=r"broken.jpg is a JPEG that is cut off: fix or remove"):
        transform(broken())


def test_an_evaluation_sees_gray(broken, logged):
    transform = protected(ImagePolicy(evaluates=True), to_float32=True)
    image = transform(broken())["img"]
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.dtype == np.float32
    assert image.std() == 0
    assert "counts as one without detections" in logged[0][1]


@pytest.mark.parametrize("backend", ["pillow", "cv2"])
def test_backends_of_mmcv(tmp_path, logged, backend):
    (tmp_path / "good.png").write_bytes(photo(1, "PNG"))
    transform = protected(imdecode_backend=backend)
    assert bright_box(transform({"img_path": str(tmp_path / "good.png")})["img"]) == BOX
    (tmp_path / "bad.png").write_bytes(photo(1, "PNG")[:150])
    assert transform({"img_path": str(tmp_path / "bad.png")}) is None


def test_all_backends_keep_the_limit_of_pixels(tmp_path, logged):
    (tmp_path / "large.png").write_bytes(photo(1, "PNG"))
    for backend in ("pillow", "cv2"):
        transform = protected(ImagePolicy(max_pixels=WIDTH * HEIGHT), imdecode_backend=backend)
        assert transform({"img_path": str(tmp_path / "large.png")}) is not None
        transform.policy = ImagePolicy(max_pixels=WIDTH * HEIGHT - 1)
        assert transform({"img_path": str(tmp_path / "large.png")}) is None
        assert "over the limit" in logged[-1][1]


def test_maps_of_labels_keep_the_limit_of_pixels(tmp_path, logged):
    Image.new("RGB", (10, 10)).save(tmp_path / "good.png")
    Image.new("RGB", (200, 100)).save(tmp_path / "map.png")
    load = protected(ImagePolicy(max_pixels=5000))
    results = {"img_path": str(tmp_path / "good.png"), "seg_map_path": str(tmp_path / "good.png")}
    assert load(dict(results))["img"].shape == (10, 10, 3)
    results["seg_map_path"] = str(tmp_path / "map.png")
    assert load(dict(results)) is None
    assert "map.png, which has 200 x 100 pixels, over the limit of 5,000" in logged[0][1]
    load.policy = ImagePolicy(max_pixels=5000, evaluates=True)  # where no gray image would keep it from being decoded
    with pytest.raises(DataError, match=r"The map .*map\.png has 200 x 100 pixels, over the limit"):
        load(dict(results))


def test_transforms_are_found_in_wrappers():
    class Box:
        def __init__(self, **parts) -> None:
            vars(self).update(parts)

    inner = LoadImageFromFile()
    pipeline = Box(transforms=[inner, Box(transforms=[LoadImageFromFile()]), object()])
    concat = Box(datasets=[Box(pipeline=pipeline), Box(dataset=Box(pipeline=pipeline), pipeline=None)])
    found = list(loading_transforms(Box(dataset=concat)))
    assert len(found) == 4
    assert found[0] is inner


def test_what_a_decoder_quotes_of_a_file_stays_in_one_line(monkeypatch):
    def quote(*_, **__):
        raise OSError("unknown compression 'a\nb\x07'")

    monkeypatch.setattr(images.Image, "open", quote)
    with pytest.raises(BrokenImageError) as caught:
        images.read_header(b"II*\0" + bytes(100))
    assert str(caught.value) == "cannot be read (OSError: unknown compression 'a b ')"
