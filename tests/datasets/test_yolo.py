"""Datasets in YOLO's format become datasets in COCO's, with the same boxes."""

import pytest
from coco_folder import gray, write_config
from yolo_set import NAMES, OWN, YOLO, H, W, objects, same, write_yolo

from localvit.commands import files
from localvit_det.config import load_config
from localvit_det.datasets.converters import convert_dataset, convert_in_cache, converted_before, find_converter
from localvit_det.datasets.converters.yolo import data_yaml
from localvit_det.errors import DataError, RequirementError
from localvit_det.preflight import check_config

pytest.importorskip("supervision")


def yolo_by_hand() -> dict[str, list[tuple]]:
    """What YOLO's definition says about the labels above, without the library."""
    result: dict[str, list[tuple]] = {"unlabelled": []}
    for name, lines in YOLO.items():
        result[name] = []
        for line in lines.splitlines():
            number, *values = line.split()
            v = [float(value) for value in values]
            if len(v) > 5:
                x, y = [a * W for a in v[::2]], [a * H for a in v[1::2]]
                box = [min(x), min(y), max(x) - min(x), max(y) - min(y)]
                polygon = [[value for point in zip(x, y, strict=True) for value in point]]
            else:
                box, polygon = [(v[0] - v[2] / 2) * W, (v[1] - v[3] / 2) * H, v[2] * W, v[3] * H], []
            result[name].append((NAMES[int(number)], box, polygon))
    return result


@pytest.mark.parametrize(
    ("body", "folders"),
    [
        (f"names: {dict(enumerate(NAMES))}\ntrain: images/train\nval: images/val\n", OWN),
        # Roboflow's, whose paths lead one folder too high, and Ultralytics' own with a path of another machine
        (f"names: {[*NAMES]}\ntrain: ../train/images\nval: ../valid/images\n", ("train/images", "valid/images")),
        (f"path: /nowhere\nnames: {[*NAMES]}\ntrain: [images/train]\nval: images/val\n", OWN),
        ("", OWN),
    ],
)
def test_yolo(tmp_path, capsys, body, folders):
    root, target = write_yolo(tmp_path / "yolo", body, folders), tmp_path / "coco"
    if not body:
        (root / "classes.txt").write_text("\n".join(NAMES))
    assert find_converter(root).name == "YOLO"
    files.convert([str(root), str(target)])
    out = capsys.readouterr().out
    assert "train: 4 images, 3 objects, 1 without a file of labels" in out
    assert f"data_root={target} classes=auto" in out
    for split in ("train", "val"):
        same(objects(target / f"annotations/instances_{split}.json"), yolo_by_hand())

    cfg = load_config(write_config(tmp_path), {"data_root": str(target), "classes": "auto", "with_mask": False})
    assert cfg.classes == NAMES
    check_config(cfg)


def test_what_lies_elsewhere_is_watched(tmp_path, cache):
    """Folders and lists that data.yaml names, their images and labels, and what may come in their place."""
    (tmp_path / "yolo").mkdir()
    root = write_yolo(tmp_path / "yolo", f"path: ../late\nnames: {[*NAMES]}\ntrain: ../a/images\nval: list\n", ())
    for name in "ab":
        for file, content in ((f"{name}/images/1.jpg", gray(W, H)), (f"{name}/labels/1.txt", b"0 0.5 0.5 0.2 0.2")):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes(content)
    (root / "list").write_text("../b/images/1.jpg")
    converted = convert_in_cache(root)
    for file in ("a/images/1.jpg", "a/labels/1.txt", "b/images/1.jpg", "b/labels/1.txt", "yolo/list"):
        (tmp_path / file).rename(tmp_path / "aside")
        assert converted_before(root) is None, file
        (tmp_path / "aside").rename(tmp_path / file)
        assert converted_before(root) == converted
    (tmp_path / "b/labels/1.txt").unlink()
    unlabelled = convert_in_cache(root)
    for file in ("a/images/deeper/2.jpg", "b/labels/1.txt", "late/list"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
        assert converted_before(root) is None, file
        (tmp_path / file).unlink()
        assert converted_before(root) == unlabelled


def test_lists_of_images(tmp_path):
    root = write_yolo(tmp_path / "yolo", "names: [a cat, dog, traffic light]\ntrain: train.txt\nval: images/val\n")
    (root / "train.txt").write_text("./images/train/one.jpg\nimages/train/two.jpg\n")
    convert_dataset(root, tmp_path / "coco")
    found = objects(tmp_path / "coco/annotations/instances_train.json")
    same(found, {name: yolo_by_hand()[name] for name in ("one", "two")})


def test_key_points_are_left_out(tmp_path):
    body = "names: [a cat]\ntrain: images/train\nval: images/train\nkpt_shape: [2, 3]\n"
    root = write_yolo(tmp_path / "yolo", body, ["images/train"])
    for file in (root / "labels/train").iterdir():
        file.write_text("0 0.5 0.5 0.25 0.1 0.4 0.5 2 0.6 0.5 2\n")
    (root / "labels/train/two.txt").write_text("0 0.5 0.5 0.25 0.1\n")
    out = convert_dataset(root, tmp_path / "coco")
    assert (
        "train: 4 images, 3 objects, 1 without a file of labels, taken as images without objects, keypoints of 2 "
        in out
    )
    assert "keypoints of 2 objects are left out" in out
    [(_, box, polygons, _)] = objects(tmp_path / "coco/annotations/instances_train.json")["one"]
    assert box == pytest.approx([75, 54, 50, 12], abs=1e-4)
    assert polygons == []
    (root / "labels/train/two.txt").write_text("0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\n")
    with pytest.raises(
        DataError, match=r"two\.txt cannot be read \(line 1 has 9 numbers, where kpt_shape .* makes 11 "
    ):
        convert_dataset(root, tmp_path / "coco2")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 0.5 0.5 0.25 0.1 0.4 0.5 2 0.6 0.5 2", "line 3 has 2, where coordinates go from 0 to 1"),
        ("0 100 60 50 12", r"line 3 has 100, where coordinates go from 0 to 1\)"),
        ("0 0.1 0.1 0.2 -0.1 0.2 0.2", "line 3 has -0.1, where"),
        ("0 0.1 0.1 nan 0.1 0.2 0.2", "line 3 has nan, where"),
    ],
)
def test_coordinates_outside(tmp_path, line, words):
    root = write_yolo(tmp_path / "yolo", f"names: {[*NAMES]}\ntrain: images/train\n", ["images/train"])
    # Rounding; edges of a box that reach out; a confidence or the number of a track.
    good = "0 0.1 0.1 1.0001 0.1 -0.001 0.2\n\n"
    (root / "labels/train/one.txt").write_text(good + "0 0.9 0.5 0.3 0.1 7\n0 0.1 0.1 0.2 0.1 0.2 0.2 7\n")
    convert_dataset(root, tmp_path / "coco")
    (root / "labels/train/one.txt").write_text(good + line)
    with pytest.raises(DataError, match=rf"labels/train/one\.txt cannot be read \({words}"):
        convert_dataset(root, tmp_path / "coco2")


def test_labels_of_yolo(tmp_path):
    root = write_yolo(tmp_path / "yolo", f"names: {[*NAMES]}\ntrain: images/train\n")
    assert "left out" not in convert_dataset(root, tmp_path / "coco")  # labels of images that data.yaml leaves out
    (root / "images/val/one.jpg").unlink()
    (root / "labels/train/three.txt").write_text("0 0.5 0.5 0.1 0.1")
    (root / "labels/classes.txt").write_text("a cat")
    last = convert_dataset(root, tmp_path / "coco2").splitlines()[-1]
    assert last == "Files of labels without an image, left out: 2 (labels/train/three.txt, labels/val/one.txt)"


def test_empty_split_of_yolo(tmp_path):
    root = write_yolo(tmp_path / "yolo", f"names: {[*NAMES]}\ntrain: images/train\nval: images/none\n")
    (root / "images/none").mkdir()
    with pytest.raises(DataError, match="names images/none for val, where no images are: correct it, or leave val"):
        convert_dataset(root, tmp_path / "coco")


def test_bad_labels_name_their_file(tmp_path):
    root = write_yolo(tmp_path / "yolo", "names: [a cat]\ntrain: images/train\nval: images/val\n")
    with pytest.raises(DataError, match=r"labels/train/one.txt cannot be read \(class 2, where there are 1 names\)"):
        convert_dataset(root, tmp_path / "coco")
    (root / "labels/train/one.txt").write_text("0 0.5 nonsense 0.2 0.1")
    with pytest.raises(DataError, match=r"labels/train/one.txt cannot be read"):
        convert_dataset(root, tmp_path / "coco")
    assert [path.name for path in tmp_path.iterdir()] == ["yolo"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "does not name its classes"),
        ("names: [a]\ntrain: images/tarin\n", "names images/tarin, which is not there"),
        ("names: [a]\ntrain: images/train\nkpt_shape: 17x3\n", r"kpt_shape in .* is '17x3': write \[NUMBER, 2\]"),
    ],
)
def test_incomplete_yolo(tmp_path, body, words):
    with pytest.raises(DataError, match=words):
        convert_dataset(write_yolo(tmp_path / "yolo", body), tmp_path / "coco")


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "supervision.dataset.formats.yolo", None)
    with pytest.raises(RequirementError, match=r"pip install 'localvit_det\[convert\]'"):
        convert_dataset(write_yolo(tmp_path / "yolo", "names: [a, b, c]\ntrain: images/train\n"), tmp_path / "coco")


GOOD = "names: [cat, dog]\ntrain: images/train\n"


@pytest.mark.parametrize("other", ["a: [", "\x00", "a: &b 1\nc: *b", "- 1\n- 2", "names: [cat]", "train: x", ""])
def test_other_yaml_files_are_passed_over(tmp_path, other):
    (tmp_path / "a.yaml").write_text(other)
    assert data_yaml(tmp_path) is None
    (tmp_path / "b.yml").write_text(GOOD)
    assert data_yaml(tmp_path) == tmp_path / "b.yml"
    (tmp_path / "data.yaml").write_text(GOOD)
    assert data_yaml(tmp_path) == tmp_path / "data.yaml"


@pytest.mark.parametrize(
    ("text", "words"), [("a: [", "cannot be read as YAML"), ("a: &b 1\nc: *b", r"line 2 has an alias \(\*b\)")]
)
def test_the_one_that_is_meant_must_be_good(tmp_path, text, words):
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=words):
        data_yaml(tmp_path)


def test_depth_is_limited(tmp_path):
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: x\nm: " + "[" * 19 + "]" * 19)
    assert data_yaml(tmp_path) is not None
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: x\nm: " + "[" * 20 + "]" * 20)
    with pytest.raises(DataError, match="line 3 is nested more than 20 deep"):
        data_yaml(tmp_path)
