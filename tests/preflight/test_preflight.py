"""Each mistake of a user ends in one sentence, before the first iteration; good configs pass in silence."""

import json
import logging
import os
from pathlib import Path

import pytest
import torch
from coco_folder import NAMES, annotations, edited, write_coco
from mmdet.registry import DATASETS
from mmengine.config import Config
from preflight_cases import SHUFFLE, fails

import localvit_det  # noqa: F401
from localvit_det.errors import CheckpointError, ConfigError, DataError, UserError
from localvit_det.preflight import check_config

# ---------------------------------------------------------------------------------------------- good configs


@pytest.mark.parametrize("model", ["mask-rcnn_r50_fpn", "cascade-mask-rcnn_r50_fpn", "retinanet_r50_fpn"])
@pytest.mark.parametrize("train", [True, False])
def test_good_config_passes_in_silence(load, logged, tmp_path, model, train):
    check_config(load(model=model), train=train)
    assert logged == []
    assert not (tmp_path / "work_dirs").exists()


def test_swapped_backbone_passes_and_is_told(load, logged):
    check_config(load(SHUFFLE.format("arch='base'")))
    assert [level for level, _ in logged] == [logging.INFO]
    assert "neck.in_channels follows the backbone ShuffleTransformer: [128, 256, 512, 1024]" in logged[0][1]


def test_each_file_is_read_once(load, monkeypatch):
    cfg = load(classes="auto")
    reads = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: reads.append(path.name) or real(path))
    check_config(cfg)
    assert reads == []  # both were read already, to tell what data_root has


def test_remote_data_are_not_looked_for(load):
    check_config(load(data_root="s3://bucket/coco"))


# ---------------------------------------------------------------------------------------------- data


def test_missing_annotation_file(load, tmp_path):
    cfg = load()
    gone = tmp_path / "mine/annotations/instances_train2017.json"
    gone.rename(gone.with_name("train.json"))
    holds = f"{gone.parent} holds instances_val2017.json, train.json"
    fails(cfg, DataError, "annotation file of train_dataloader.dataset", gone, holds, "data_root")


def test_wrong_data_root_names_what_exists_above(load, tmp_path):
    cfg = load(data_root=str(tmp_path / "nowhere"))
    fails(cfg, DataError, tmp_path / "nowhere/annotations", f"{tmp_path} holds", "mine/")


def test_missing_image_folder(load, tmp_path):
    cfg = load()
    (tmp_path / "mine/val2017").rename(tmp_path / "mine/valid")
    fails(cfg, DataError, "image folder of val_dataloader.dataset", tmp_path / "mine/val2017", "valid/")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<annotation/>", ["not JSON"]),
        ("[]", ["not in COCO format"]),
        ("{}", ["not in COCO format", "'images'"]),
        (
            '{"images": [{"id": 1, "file_name": "a.jpg"}], "categories": []}',
            ["no 'width'", "file_name, width and"],
        ),
        ('{"images": [], "categories": {"cat": 1}}', ["not in COCO format", "categories have id and name"]),
        ('{"images": [], "categories": [], "annotations": [{"id": 1, "bbox": [1, 2, 3, 4]}]}', ["no 'category_id'"]),
        (
            '{"images": [], "categories": [], "annotations": [{"id": 1, "bbox": [1, 2, 3]}]}',
            ["annotations, near {'id': 1", "[x, y, width, height]"],
        ),
    ],
)
def test_file_that_is_not_coco(load, tmp_path, text, words):
    cfg = load()
    path = tmp_path / "mine/annotations/instances_train2017.json"
    path.write_text(text)
    fails(cfg, DataError, path, *words)


def test_absent_images(load, tmp_path):
    cfg = load()
    for name in ("002.jpg", "003.jpg"):
        (tmp_path / "mine/train2017" / name).unlink()
    fails(cfg, DataError, "2 of the 4 images", tmp_path / "mine/train2017/002.jpg")


def test_images_in_subfolders(load, tmp_path):
    def nest(content):
        content["images"][0]["file_name"] = "sub/001.jpg"

    (tmp_path / "mine/train2017/sub").mkdir(parents=True)
    cfg = load(train=edited(nest))
    check_config(cfg)
    (tmp_path / "mine/train2017/sub/001.jpg").unlink()
    fails(cfg, DataError, "1 of the 4 images", "train2017/sub/001.jpg")


def test_no_images(load):
    fails(load(train=annotations(0)), DataError, "instances_train2017.json lists no images")


@pytest.mark.parametrize("split", ["train", "val"])
def test_no_annotations(load, split):
    content = edited(lambda c: c["annotations"].clear())
    fails(load(**{split: content}), DataError, f"instances_{split}2017.json has no usable annotation", "classes=auto")


def test_file_without_annotations_serves_to_write_results(load):
    cfg = load(val=edited(lambda c: c.pop("annotations")))
    cfg.test_evaluator.format_only = True
    check_config(cfg, train=False)


def test_all_images_too_small(load):
    cfg = load(**{"train_dataloader.dataset.filter_cfg.min_size": 90})
    fails(cfg, DataError, "smaller than 90 pixels", "filter_cfg")


def sparse() -> dict:
    """Of six images one is empty, one of another class, one small, one has a crowd alone, one a box of no size."""
    content = annotations(6)
    content["images"][2].update(width=20)
    content["annotations"] = content["annotations"][2:]  # two for each image
    for one in content["annotations"]:
        one.update(category_id=10, bbox=[1, 1, 10, 10], segmentation=[[1, 1, 9, 1, 9, 9]])
        one.update({2: {"category_id": 30}, 4: {"iscrowd": 1}, 5: {"bbox": [1, 1, 0, 0]}}.get(one["image_id"], {}))
    return content


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({"filter_empty_gt": True, "min_size": 32}, "3 of 6 images are left out: 2 without objects, 1 smaller than 32"),
        ({"filter_empty_gt": True}, "2 of 6 images are left out: 2 without objects ("),
        ({"min_size": 32}, "1 of 6 images are left out: 1 smaller than 32 pixels ("),
        ({"filter_empty_gt": False, "min_size": 5}, None),
        (None, None),
    ],
)
def test_images_that_are_left_out(load, logged, rules, told):
    cfg = load(train=sparse(), classes=["cat", "dog"])
    cfg.train_dataloader.dataset.filter_cfg = rules
    check_config(cfg)
    lines = [line for _, line in logged if "left out" in line]
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(dataset) == 6 - (int(told[0]) if told else 0)
    assert [told in line for line in lines] == ([True] if told else [])
    assert all(line.startswith("train: ") and "(train_dataloader.dataset.filter_cfg)" in line for line in lines)


def test_negatives_are_kept_by_the_option_of_the_docs(load, logged):
    cfg = load(train=sparse(), **{"train_dataloader.dataset.filter_cfg.filter_empty_gt": False})
    check_config(cfg)
    assert len(DATASETS.build(cfg.train_dataloader.dataset)) == 5
    assert any("train: 1 of 6 images are left out: 1 smaller than 32 pixels" in line for _, line in logged)


def test_more_pixels_than_the_limit_of_the_config(load):
    def enlarge(content):
        content["images"][0].update(width=20000, height=10000)

    cfg = load(train=annotations(), max_pixels=7999)
    fails(cfg, DataError, "image id 1 (001.jpg) with the size 100 x 80, over 7,999 pixels", "max_pixels=N")
    cfg.max_pixels = 8e3
    check_config(cfg)
    large = edited(enlarge)
    cfg = load()
    file = Path(cfg.train_dataloader.dataset.data_root, "annotations/instances_train2017.json")
    file.write_text(json.dumps(large))  # and no image of 600 MB
    fails(cfg, DataError, "20000 x 10000, over 100,000,000 pixels")
    cfg.max_pixels = 300_000_000
    check_config(cfg)  # one of four that are looked at has another size, which is told


def test_ids_used_twice(load, tmp_path):
    def twice(section):
        return edited(lambda c: c[section][1].update(id=c[section][0]["id"]))

    cfg = load()  # in a file that is loaded they are numbered anew, in a copy
    (tmp_path / "mine/annotations/instances_train2017.json").write_text(json.dumps(twice("annotations")))
    fails(cfg, DataError, "annotation id 1 twice")
    fails(load(train=twice("images")), DataError, "image id 1 twice")
    fails(load(train=twice("categories")), DataError, "category", "'dog'", "twice")


def change_boxes(boxes, count=8):
    def change(content):
        for annotation, box in zip(content["annotations"][:count], boxes * 8, strict=False):
            annotation["bbox"] = box

    return edited(change)


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([[60, 40, 90, 60]], ["[x1, y1, x2, y2]", "8 run over the edge"]),
        ([[0.6, 0.5, 0.3, 0.25]], ["fractions of the image's size", "8 are smaller than one pixel"]),
        ([[200, 200, 30, 20]], ["8 lie outside their image"]),
        ([[10, 10, 0, 20], [10, 10, 20, -5]], ["8 are smaller than one pixel"]),
    ],
)
def test_most_boxes_bad(load, boxes, words):
    fails(load(train=change_boxes(boxes)), DataError, "Most of the 8 annotations", *words)


def test_few_bad_boxes_are_one_warning(load, logged):
    def change(content):
        content["annotations"][0]["bbox"] = [200, 10, 20, 20]
        content["annotations"][1]["bbox"] = [10, 10, 0, 20]
        content["annotations"][2]["category_id"] = 77
        content["annotations"][3]["image_id"] = 77

    check_config(load(train=edited(change)))
    (level, line), (_, left_out) = logged
    assert level == logging.WARNING
    assert "1 of 4 images are left out: 1 without objects" in left_out
    assert "skip 4 of the 8 annotations" in line
    for reason in ("1 lie outside", "1 are smaller", "1 have a category_id", "1 have an image_id"):
        assert reason in line


def test_masks_without_polygons(load):
    content = edited(lambda c: c["annotations"][0].pop("segmentation"))
    fails(load(train=content), DataError, "1 of the 8 annotations", "no segmentation", "with_mask=False")


@pytest.mark.parametrize("key", ["iscrowd", "area"])
def test_annotations_without_a_key(load, tmp_path, key):
    """A file that is loaded gets them in a copy (tests/config/test_in_place.py); one that is no longer is refused."""
    cfg = load()
    content = edited(lambda c: c["annotations"][0].pop(key))
    (tmp_path / "mine/annotations/instances_val2017.json").write_text(json.dumps(content))
    fails(cfg, DataError, f"lack the key {key}", "instances_val2017.json")


def test_evaluator_with_another_file(load, tmp_path):
    cfg = load(**{"val_evaluator.ann_file": str(tmp_path / "other.json")})
    fails(cfg, DataError, "annotation file of val_evaluator is missing", tmp_path / "other.json")
    (tmp_path / "other.json").write_text(json.dumps(annotations(1)))
    fails(cfg, DataError, "lacks 3 of the 4 images", "same annotation file")


def test_unknown_data_set_type(load):
    cfg = load(**{"train_dataloader.dataset.type": "CocoDatset"})
    fails(cfg, ConfigError, "train_dataloader.dataset.type 'CocoDatset'", "did you mean 'CocoDataset'?")


def test_data_set_prepares_itself_first(load, tmp_path):
    from mmdet.datasets import CocoDataset

    class SelfMade(CocoDataset):
        @classmethod
        def prepare(cls, data_root, consent):
            write_coco(Path(data_root))

    with DATASETS.switch_scope_and_registry("mmdet"):
        DATASETS.register_module(module=SelfMade, force=True)
    try:
        kinds = {f"{split}_dataloader.dataset.type": "SelfMade" for split in ("train", "val", "test")}
        check_config(load(data_root=str(tmp_path / "made"), **kinds))
        assert load(data_root=str(tmp_path / "again"), classes="auto", **kinds).classes == NAMES
    finally:
        del DATASETS.module_dict["SelfMade"]


# ---------------------------------------------------------------------------------------------- keys

RUNTIME = """
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=50),
    checkpoint=dict(type="CheckpointHook", interval=1),
)
custom_hooks = [dict(type="NumClassCheckHook"), dict(type="EMAHook", momentum=1e-4)]
train_cfg = dict(by_epoch=True, max_epochs=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1))
"""


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("default_hooks.logger.intervall", ["LoggerHook does not take: intervall (did you mean 'interval'?)"]),
        (
            "default_hooks.checkpoint.every_minute",
            ["CheckpointHook does not take", "'every_minutes'"],
        ),
        ("default_hooks.loger.interval", ["default_hooks.loger has a hook without a type", "'default_hooks.logger'"]),
        ("custom_hooks.0.often", ["custom_hooks has keys that NumClassCheckHook does not take: often"]),
        ("train_cfg.max_epoch", ["train_cfg has keys that EpochBasedTrainLoop does not take: max_epoch", "max_epochs"]),
        ("val_cfg.fp17", ["val_cfg has keys that ValLoop does not take: fp17 (did you mean 'fp16'?)"]),
        ("train_dataloader.batchsize", ["a dataloader does not take: batchsize (did you mean 'batch_size'?)"]),
        ("train_dataloader.sampler.shufle", ["DefaultSampler does not take: shufle"]),
        ("optim_wrapper.optimizer.momentun", ["SGD does not take: momentun (did you mean 'momentum'?)"]),
    ],
)
def test_keys_that_the_runner_would_break_on(load, option, words):
    cfg = load(RUNTIME, runner_type="ReliableRunner", **{option: 3})
    fails(cfg, ConfigError, *words)
    cfg.runner_type = "RunnerOfOthers"  # nobody knows what it takes
    check_config(cfg)


def test_keys_that_the_runner_takes(load):
    options = {
        "default_hooks.checkpoint.every_minutes": 3,
        "default_hooks.logger.priority": "LOW",
        "custom_hooks.1.alpha": 3,  # the average's own, which EMAHook hands on
        "train_cfg.dynamic_intervals": [(1, 2)],
        "train_dataloader.num_batch_per_epoch": 2,
        "train_dataloader.pin_memory": True,
        "optim_wrapper.optimizer.momentum": 0.9,
        "optim_wrapper.accumulative_counts": 2,
    }
    check_config(load(RUNTIME, runner_type="ReliableRunner", **options))
    check_config(load(RUNTIME, **{"train_dataloader.batchsize": 3}), train=False)  # which does not build it
    hooks = "custom_hooks = [dict(type='CurvesHook', priority='LOW')]"
    check_config(load(hooks))
    fails(load(RUNTIME, **{"default_hooks.checkpoint.every_minutes": 3}), ConfigError, "every_minutes")  # MMEngine's


# ---------------------------------------------------------------------------------------------- files


def test_work_dir_that_cannot_be_written(load, tmp_path):
    cfg = load()
    (tmp_path / "file").touch()
    cfg.work_dir = str(tmp_path / "file/run")
    fails(cfg, ConfigError, f"work-dir {tmp_path / 'file/run'}", "--work-dir")
    cfg.work_dir = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    fails(cfg, ConfigError, "not in UTF-8", "--work-dir")


def test_missing_checkpoints(load, tmp_path):
    (tmp_path / "epoch_12.pth").write_bytes(b"\x80")
    cfg = load(load_from=str(tmp_path / "epoch_21.pth"))
    fails(cfg, CheckpointError, "load_from", tmp_path / "epoch_21.pth", "epoch_12.pth", train=False)
    check_config(load(load_from=str(tmp_path / "epoch_12.pth")), train=False)
    fails(load(load_from=str(tmp_path)), CheckpointError, "is a folder")


def test_missing_pretrained_weights_matter_only_for_training(load):
    init = {"model.backbone.init_cfg": {"type": "Pretrained", "checkpoint": "nowhere/r50.pth"}}
    fails(
        load(**init),
        CheckpointError,
        "model.backbone.init_cfg.checkpoint",
        Path("nowhere/r50.pth").absolute(),
    )
    check_config(load(**init), train=False)


# ---------------------------------------------------------------------------------------------- processes


@pytest.mark.parametrize(("launcher", "variable"), [("pytorch", "RANK"), ("slurm", "SLURM_PROCID")])
def test_launcher_that_started_nothing(load, monkeypatch, launcher, variable):
    monkeypatch.delenv(variable, raising=False)
    cfg = load()
    cfg.launcher = launcher
    fails(cfg, ConfigError, f"--launcher {launcher}", variable, "tools/")


@pytest.mark.parametrize(
    ("launcher", "gpus", "words"),
    [("slurm", 0, ["needs GPUs", "tools/dist_train.sh"]), ("pytorch", 2, ["4 processes", "start 2"])],
)
def test_more_processes_than_gpus(load, monkeypatch, launcher, gpus, words):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    cfg = load()
    cfg.launcher = launcher
    fails(cfg, ConfigError, *words)


def test_a_gpu_for_each_process_passes(load, logged, monkeypatch):
    monkeypatch.setenv("RANK", "5")  # on the second machine
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    cfg = load()
    cfg.launcher = "pytorch"
    check_config(cfg)
    assert logged == []


@pytest.mark.parametrize("named", [True, False])
def test_resume_with_other_classes(load, tmp_path, named):
    work_dir = tmp_path / "work_dirs/run"
    work_dir.mkdir(parents=True)
    file = work_dir / "epoch_1.pth"

    def resumed(*classes: str) -> Config:
        meta = {"epoch": 1, "iter": 4, "dataset_meta": {"classes": classes}}
        torch.save({"state_dict": {}, "message_hub": {}, "optimizer": {}, "meta": meta}, file)
        cfg = load()
        cfg.resume, cfg.load_from = True, str(file) if named else None
        return cfg

    check_config(resumed(*NAMES))
    sentence = "which takes the rows of its heads by class name"
    fails(resumed("dog", "cat", "zebra"), CheckpointError, file, "dog, cat, zebra, and train_dataloader", sentence)
    fails(resumed("cat", "dog", "zebu"), CheckpointError, file, "cat, dog, zebu", ", ".join(NAMES), sentence)
    fails(resumed("cat", "dog"), CheckpointError, file)
    cfg = resumed("dog", "cat", "zebra")
    cfg.resume = False
    check_config(cfg)


def test_a_whole_model_that_starts_from_other_classes(load, tmp_path):
    file = tmp_path / "start.pth"
    torch.save({"state_dict": {"x": torch.zeros(1)}, "meta": {"dataset_meta": {"classes": NAMES[::-1]}}}, file)
    body = f"model = dict(init_cfg=dict(type='Pretrained', checkpoint={str(file)!r}))"
    fails(load(body), CheckpointError, file, "zebra, dog, cat", "--load-from")


def test_all_mistakes_at_once(load):
    """Of the model, of both splits' data and of keys."""
    cfg = load(train=edited(lambda c: c["categories"][1].update(name="dogg")), classes=["cat", "dog", "zebra"])
    cfg.default_hooks = {"checkpoint": {"type": "CheckpointHook", "intervall": 1}}
    cfg.model.neck.in_channels = [1, 2, 3, 4]
    with pytest.raises(UserError) as caught:
        check_config(cfg)
    found = [str(error) for error in (caught.value, *caught.value.others)]
    for words in ("intervall", "neck", "'dogg'"):
        assert sum(words in sentence for sentence in found) == 1, found


def test_an_absent_file_is_named_once(load):
    """The evaluator reads it as well."""
    cfg = load()
    Path(cfg.val_evaluator.ann_file).unlink()
    with pytest.raises(UserError) as caught:
        check_config(cfg)
    found = [str(error) for error in (caught.value, *caught.value.others)]
    assert sum("annotation file" in sentence for sentence in found) == 1, found
