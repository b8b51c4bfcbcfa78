"""Datasets in the formats of other tools are trained on as they are: `data_root` names their folder."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import lines_logged_by
from file_counts import counted_files
from other_formats import CLASSES, FORMATS, SPLITS, WHOLE, area, png, read

from localvit.commands.files import convert as convert_command
from localvit_det.config import discovery, load_config
from localvit_det.config_names import existing_config
from localvit_det.datasets.annotations import read_annotations
from localvit_det.datasets.converters import convert_dataset, convert_in_cache, converted_before
from localvit_det.datasets.synthetic_shapes import make_shapes
from localvit_det.errors import ConfigError, DataError
from localvit_det.preflight import check_config

pytest.importorskip("supervision")

NANO = "mask_rcnn_shuffle_nano_shapes"
SIZE = 64


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes") / "set", num_train=4, num_val=2, size=SIZE)


def options(root: Path) -> dict:
    return {"data_root": str(root), "classes": "auto", "with_mask": False}


def found_in(cfg, split: str) -> dict[str, list[tuple]]:
    """(class, box, polygons) by the name of the image, of what a config trains or tests on."""
    dataset = cfg[f"{split}_dataloader"].dataset
    content = json.loads(Path(dataset.data_root, dataset.ann_file).read_text())
    names = {one["id"]: one["name"] for one in content["categories"]}
    result: dict[str, list[tuple]] = {}
    for image in content["images"]:
        assert Path(dataset.data_root, dataset.data_prefix.img, image["file_name"]).is_file()
        own = [one for one in content["annotations"] if one["image_id"] == image["id"]]
        stem = Path(image["file_name"]).stem
        result[stem] = [(names[one["category_id"]], one["bbox"], one["segmentation"]) for one in own]
    return result


@pytest.mark.parametrize("name", FORMATS)
def test_data_root(tmp_path, cache, monkeypatch, shapes, name):
    FORMATS[name](shapes, root := tmp_path / "mine")
    before = {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}
    lines = lines_logged_by(monkeypatch, discovery)
    cfg = load_config(NANO, options(root))
    (line,) = (line for line in lines if line.startswith("data_root"))
    assert line.startswith(f"data_root {root}: {name}'s format, converted in the cache")
    assert set(cfg.classes) == set(CLASSES)
    check_config(cfg)
    expected: dict[str, dict] = {split: {} for split in SPLITS}
    for split, file, _, own in read(shapes):
        expected[split][file.stem] = own
    for split in SPLITS:
        found = found_in(cfg, split)
        assert found.keys() == expected[split].keys()
        for stem, own in expected[split].items():
            assert [kind for kind, _, _ in found[stem]] == [CLASSES[one["category_id"] - 1] for one in own]
            for (_, box, polygons), one in zip(found[stem], own, strict=True):
                parts = one["segmentation"] if name in WHOLE else [max(one["segmentation"], key=len)]
                if name == "Pascal VOC" or len(parts) == len(one["segmentation"]):
                    np.testing.assert_allclose(box, one["bbox"], atol=0.02)
                if name != "Pascal VOC":
                    for part, other in zip(polygons, parts, strict=True):
                        np.testing.assert_allclose(part, other, atol=1e-4)
    assert found_in(cfg, "test") == found_in(cfg, "val")
    assert before == {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}
    if name == "YOLO":
        assert "test: ../test/images has no images, so that tests take those of val" in line
        assert "keypoints" not in "".join(lines)  # ordinary polygons are none
    if name == "labelme":
        assert "Shapes that enclose nothing, left out: 6 (6 point)" in line


def test_what_was_converted_is_taken_until_something_changes(tmp_path, cache, monkeypatch, shapes):
    FORMATS["labelme"](shapes, root := tmp_path / "mine")
    first = convert_in_cache(root)
    with monkeypatch.context() as patched:
        patched.setattr("localvit_det.datasets.converters._contents", None)
        assert convert_in_cache(root) == first
    label = next(root.rglob("*.json"))
    label.write_text(label.read_text().replace('"shapes": [', '"shapes":  ['))
    assert (second := convert_in_cache(root)).files != first.files
    (root / "settings.yaml").write_text("kpt_shape: [1, 2]")
    assert convert_in_cache(root).files != second.files
    # A run's config names files of the cache, which may have gone since.
    cfg = load_config(NANO, options(root))
    cfg.dump(tmp_path / "saved.py")
    for file in (cache / "sets").rglob("*.json"):
        file.unlink()
    again = load_config(tmp_path / "saved.py")
    assert again.train_dataloader.dataset.ann_file == cfg.train_dataloader.dataset.ann_file
    assert read_annotations(again.train_dataloader.dataset.ann_file).path == root


@pytest.mark.parametrize("name", FORMATS)
def test_a_second_start_opens_no_file_of_labels(tmp_path, cache, shapes, name):
    """None is opened to know that nothing has changed, and what was converted is not taken once something has."""
    FORMATS[name](shapes, root := tmp_path / "mine")
    cfg = load_config(NANO, options(root))
    with counted_files(str(root)) as opened:
        again = load_config(NANO, options(root))
        assert not opened
        check_config(again)  # looks at images
    assert {Path(file).suffix for file in opened} == {".jpg"}
    assert again.train_dataloader == cfg.train_dataloader
    first = converted_before(root)
    files = sorted(file for file in root.rglob("*") if file.is_file())
    assert {file.suffix for file in files} > {".jpg"}
    for file in files:
        state = file.stat()
        file.rename(aside := tmp_path / "aside")
        assert converted_before(root) is None
        aside.rename(file)
        assert converted_before(root) == first
        shutil.copy(file, added := file.with_stem("added"))
        assert converted_before(root) is None
        added.unlink()
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
        assert converted_before(root) is None
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_files_in_cocos_format_come_first(tmp_path, cache, shapes):
    """What is converted for an option that names such a file is not taken without the option."""
    FORMATS["labelme"](shapes, root := tmp_path / "mine")
    (root / "annotations").mkdir()
    content = json.loads((shapes / "annotations/instances_val2017.json").read_text())
    (named := root / "annotations/instances_val.json").write_text(json.dumps({**content, "info": {}}))
    own = {**options(root), "val_dataloader.dataset.ann_file": str(named.relative_to(root))}
    assert "labelme" in load_config(NANO, own).recognized["layout"]
    assert "labelme" not in load_config(NANO, {**options(root), "val_split": 0.5}).recognized["layout"]


def test_shapes_of_labelme(tmp_path, cache):
    mask = np.zeros((10, 20), bool)
    mask[2:9, 3:18] = True
    mask[4:6, 8:10] = False  # a hole, which stays
    shapes = [
        {"label": "a", "points": [[30, 40], [10, 20]], "shape_type": "rectangle"},
        {"label": "b", "points": [[30, 30], [30, 40]], "shape_type": "circle"},
        {"label": "c", "points": [[40, 50], [60, 60]], "shape_type": "mask", "mask": png(mask)},
        {"label": "a", "points": [[1, 1], [9, 1], [9, 9]], "group_id": 1},
        {"label": "a", "points": [[20, 1], [29, 1], [29, 9]], "group_id": 1},
    ]
    write_labelme(tmp_path / "mine", shapes)
    (name,) = convert_in_cache(tmp_path / "mine").files.values()
    content = json.loads(Path(name).read_text())
    box, circle, drawn, group = content["annotations"]
    assert (box["bbox"], box["segmentation"]) == ([10, 20, 20, 20], [])
    np.testing.assert_allclose(circle["bbox"], [20, 20, 20, 20], atol=0.1)
    assert circle["area"] == pytest.approx(np.pi * 100)
    assert drawn["bbox"] == [43, 52, 15, 7]
    assert drawn["area"] == mask.sum() == area(drawn["segmentation"], 80, 100)
    assert (group["bbox"], len(group["segmentation"])) == ([1, 1, 28, 8], 2)
    shapes[0]["points"] = [[1, 2], [3]]
    write_labelme(tmp_path / "mine", shapes)
    with pytest.raises(DataError, match=r"The labels .*a\.json cannot be read \(not enough values"):
        convert_in_cache(tmp_path / "mine")
    write_labelme(tmp_path / "mine", [], imageWidth=50)
    with pytest.raises(DataError, match=r"a\.jpg was labelled at 50 x 80 pixels, and has \(100, 80\)"):
        convert_in_cache(tmp_path / "mine")


def write_labelme(root: Path, shapes: list[dict], **others: object) -> None:
    from coco_folder import gray

    root.mkdir(exist_ok=True)
    (root / "a.jpg").write_bytes(gray(100, 80))
    content = {"shapes": shapes, "imagePath": "..\\there\\a.jpg", "imageHeight": 80, "imageWidth": 100, **others}
    (root / "a.json").write_text(json.dumps(content))


def test_shapes_of_cvat_and_via(tmp_path, cache):
    from coco_folder import gray

    root = tmp_path / "mine"
    (root / "images").mkdir(parents=True)
    (root / "images/a.jpg").write_bytes(gray(100, 80))
    (root / "images/b.jpg").write_bytes(gray(100, 80))
    shapes = (
        '<box label="a" xtl="10" ytl="20" xbr="30" ybr="40"/><box label="a" xtl="40" ytl="30" xbr="60" ybr="40" '
        'rotation="90"/><ellipse label="b" cx="50" cy="40" rx="20" ry="10"/><mask label="c" rle="1, 4, 1" left="70" '
        'top="50" width="3" height="2"/><polyline label="c" points="1,1;2,2"/><tag label="c"/>'
    )
    image = f'<image id="0" name="a.jpg" width="100" height="80">{shapes}</image>'
    (root / "annotations.xml").write_text(f"<annotations>{image}</annotations>")
    converted = convert_in_cache(root)
    assert converted.notes == [
        "Images that no file names, left out: 1 (images/b.jpg)",
        "Shapes that enclose nothing, left out: 1 (1 polyline)",
    ]
    box, turned, ellipse, mask = json.loads(Path(converted.files["all"]).read_text())["annotations"]
    assert box["bbox"] == [10, 20, 20, 20]
    np.testing.assert_allclose(turned["bbox"], [45, 25, 10, 20])
    assert ellipse["area"] == pytest.approx(np.pi * 200)
    assert (mask["bbox"], mask["area"]) == ([70, 50, 3, 2], 4)
    (root / "annotations.xml").write_text("<annotations><track id='0' label='a'/></annotations>")
    with pytest.raises(DataError, match="has tracks of a video: export the task from CVAT as COCO"):
        convert_in_cache(root)
    (root / "annotations.xml").unlink()
    regions = [
        {"shape_attributes": {"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4}, "region_attributes": {}},
        {"shape_attributes": {"name": "circle", "cx": 50, "cy": 40, "r": 10}, "region_attributes": {"k": "x"}},
        {
            "shape_attributes": {"name": "ellipse", "cx": 50, "cy": 40, "rx": 20, "ry": 5, "theta": np.pi / 2},
            "region_attributes": {"k": "y", "other": "z"},
        },
    ]
    (root / "via.json").write_text(json.dumps({"a": {"filename": "a.jpg", "regions": dict(enumerate(regions))}}))
    converted = convert_in_cache(root)
    assert converted.notes[:2] == [
        "via.json: the class is the attribute k (others: other)",
        "via.json: 1 regions without a class are of the class object",
    ]
    content = json.loads(Path(converted.files["all"]).read_text())
    assert [one["name"] for one in content["categories"]] == ["object", "x", "y"]
    np.testing.assert_allclose(content["annotations"][2]["bbox"], [45, 20, 10, 40], atol=0.2)


def test_convert_takes_files(tmp_path, capsys, shapes):
    FORMATS["YOLO"](shapes, root := tmp_path / "mine")
    (root / "data.yaml").rename(root / "other.yaml")
    (root / "data.yaml").write_text("names: [x]\ntrain: nowhere\n")
    convert_command([str(root / "other.yaml"), str(tmp_path / "coco")])
    assert "val: 2 images" in capsys.readouterr().out
    FORMATS["CVAT"](shapes, root := tmp_path / "cvat")
    assert "CVAT, 2 splits" in convert_dataset(root / "annotations.xml", tmp_path / "coco2")


def test_what_is_no_root_and_has_no_classes(tmp_path, cache, shapes):
    FORMATS["labelme"](shapes, root := tmp_path / "set")
    (root / "data.yaml").write_text("names: [a]")
    with pytest.raises(ConfigError, match=rf"data.yaml is a file: give the folder .* as in data_root={root} \(an arch"):
        load_config(NANO, options(root / "data.yaml"))
    with pytest.raises(DataError, match=r"set has the classes .*, and the config none of its own, so that the 80 of"):
        check_config(load_config("mask_rcnn_shuffle_t_coco", {"data_root": str(root)}))
    for file in (root / "val").iterdir():
        file.rename(root / "train" / file.name)
    (root / "train").rename(root / "pictures")
    with pytest.raises(DataError, match=r"has a single annotation file, instances_default\.json with 6 images, and"):
        load_config(NANO, options(root))


def test_data_is_no_config(tmp_path):
    (tmp_path / "pictures/x").mkdir(parents=True)
    (tmp_path / "pictures/x/a.jpg").write_bytes(b"")
    (tmp_path / "pictures/data.yaml").write_text("names: [a]\ntrain: x")
    for name, words in (
        ("pictures", "is a folder of data, and no config: name one"),
        ("pictures/data.yaml", "is a file of YOLO's settings, and no config"),
        ("pictures/x/a.jpg", "is a file of the kind .jpg, and no config"),
    ):
        with pytest.raises(ConfigError, match=words):
            existing_config(tmp_path / name)
    (tmp_path / "pictures/epoch_1.pth").write_bytes(b"")
    assert existing_config(tmp_path / "pictures") == tmp_path / "pictures"


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("a.tfrecord", "", "TFRecord's format, which is not read: convert it with Datumaro: `datum convert -if tf_det"),
        ("x/train.parquet", "", "Parquet"),
        ("labels.json", '[{"image": "a.jpg", "annotations": [{"label": "a", "coordinates": {}}]}]', "CreateML"),
        ("a_gtFine_polygons.json", '{"imgHeight": 1}', "datum convert -if cityscapes"),
        ("meta.json", '{"classes": [], "tags": []}', "Supervisely's format"),
        ("via.csv", "filename,file_size,region_shape_attributes", "VIA .CSV.'s format, .* annotations as JSON"),
        ("a.csv", "ImageID,Source,LabelName", "datum convert -if open_images"),
        ("project.json", '{"project": {"pid": "x"}}', "VIA 3"),
        ("d.json", '{"info": {}, "categories": {}, "items": []}', "-if datumaro"),
        ("a.jpg", "", "holds images and no labels: label them, .* `localvit predict MODEL"),
    ],
)
def test_formats_that_are_not_read(tmp_path, file, content, words):
    path = tmp_path / "mine" / file
    path.parent.mkdir(parents=True)
    path.write_text(content)
    (tmp_path / "mine/b.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=words):
        load_config(NANO, options(tmp_path / "mine"))
