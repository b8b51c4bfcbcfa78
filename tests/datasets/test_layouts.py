"""Names in annotation files, and the files that they mean."""

import unicodedata
from pathlib import Path

import pytest

from localvit_det.datasets.layouts import find_images, look_into
from localvit_det.errors import DataError

FRAMES = [f"frame{number:04d}.jpg" for number in range(20)]
CAMERAS = [f"cam{camera}/{frame}" for camera in (1, 2) for frame in FRAMES]


@pytest.fixture
def found(tmp_path):
    """What `find_images` makes of files and names: the path of each name, or the sentence of the error."""

    def find(files: list[str], names: list[str], ann_file: str = "train.json") -> dict[str, str] | str:
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
        try:
            folder, renames = find_images(look_into(tmp_path), ann_file, names)
        except DataError as error:
            return str(error)
        return {name: Path(folder, renames.get(name, name)).as_posix() for name in names}

    return find


def below(folder: str, names: list[str] = FRAMES) -> list[str]:
    return [f"{folder}/{name}" for name in names]


@pytest.mark.parametrize(
    ("files", "names", "words"),
    [
        (below("cam2"), CAMERAS, ("lacks 20 of the 40", "cam1/frame0000.jpg: cam2/frame0000.jpg is not taken")),
        (FRAMES, CAMERAS, ("fewer images than the 40", "cam1/frame0000.jpg and cam2/frame0000.jpg would both")),
        (below("train"), CAMERAS, ("cam1/frame0000.jpg and cam2/frame0000.jpg would both be train/frame0000.jpg",)),
        (below("images"), CAMERAS, ("lacks 40 of the 40",)),
        (below("cam2"), below("cam1"), ("lacks 20 of the 20",)),
        # A camera's frames have names of their own, and the other one's folder has all of them.
        (below("cam2"), [*below("cam1", FRAMES[:10]), *below("cam2", FRAMES[10:])], ("lacks 10 of the 20",)),
        (below("cam2"), [*below("/a/cam1", FRAMES[:10]), *below("/a/cam2", FRAMES[10:])], ("lacks 10 of the 20",)),
        (below("b/images"), [*below("a/images"), *below("b/images")], ("lacks 20 of the 40",)),
        (below("val2017"), below("train2017"), ("lacks 20 of the 20",)),
        (below("images", FRAMES[:1]), ["images/frame0000.jpg", "images\\frame0000.jpg"], ("would both be images/",)),
        (["elsewhere.jpg"], FRAMES, ("has none of the 20 images",)),
    ],
)  # fmt: skip
def test_contradictions_are_refused(found, files, names, words):
    sentence = found(files, names)
    assert isinstance(sentence, str)
    assert all(word in sentence for word in words), sentence


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (below("images", CAMERAS), CAMERAS),
        (below("train2017"), below("train2017")),
        (below("images"), below("train2017")),
        (below("photos"), below("/home/anna/pictures")),
        (below("photos"), below("C:\\data\\pictures".replace("\\", "/"))),
        (below("photos"), [name.replace("/", "\\") for name in below("D:/data")]),
        (below("photos"), [f"{name}?token=1#top" for name in below("https://host/bucket")]),
        (below("images"), [*below("/a/2020", FRAMES[:10]), *below("/a/2021", FRAMES[10:])]),  # gathered in one folder
        ([f"day{index % 2}/{frame}" for index, frame in enumerate(FRAMES)], FRAMES),
        (below("photos", [f"one {frame}" for frame in FRAMES]), [f"one%20{frame}" for frame in FRAMES]),
        (below("photos", [frame.replace("jpg", "JPG") for frame in FRAMES]), FRAMES),
        (below("photos", [f"e\N{COMBINING ACUTE ACCENT}{f}" for f in FRAMES]), [f"é{f}" for f in FRAMES]),
        (below("photos", [f"é{frame}" for frame in FRAMES]), [unicodedata.normalize("NFD", f"é{f}") for f in FRAMES]),
    ],
)  # fmt: skip
def test_each_name_gets_its_file(found, tmp_path, files, names):
    paths = found(files, names)
    assert isinstance(paths, dict), paths
    assert sorted(paths.values()) == sorted(files)
    for (name, path), file in zip(paths.items(), files, strict=True):
        assert path == file, name


def test_images_of_another_split_do_not_stand_in(found):
    paths = found([*below("train", FRAMES[1:]), *below("val")], FRAMES)
    assert set(paths.values()) == set(below("train"))


def test_images_of_another_folder_do_not_stand_in(found):
    paths = found([*below("one", FRAMES[1:]), *below("two", FRAMES[:5])], FRAMES)  # two/ has others of the same names
    assert set(paths.values()) == set(below("one"))


def test_mixed_letter_case(found):
    files = [f"photos/{frame.replace('jpg', 'JPG') if index % 2 else frame}" for index, frame in enumerate(FRAMES)]
    assert list(found(files, FRAMES).values()) == files
