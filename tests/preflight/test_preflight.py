"""Good configs pass in silence; of bad ones all mistakes are named at once."""

import logging
from pathlib import Path

import pytest
from coco_folder import edited
from preflight_cases import SHUFFLE

import localvit_det  # noqa: F401
from localvit_det.errors import UserError
from localvit_det.preflight import check_config


@pytest.mark.parametrize("model", ["mask-rcnn_r50_fpn", "cascade-mask-rcnn_r50_fpn", "retinanet_r50_fpn"])
@pytest.mark.parametrize("train", [True, False])
def test_good_config_passes_in_silence(load, logged, tmp_path, model, train):
    check_config(load(model=model), train=train)
    assert logged == []
    assert not (tmp_path / "work_dirs").exists()


def test_swapped_backbone_passes_and_is_reported(load, logged):
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


def test_a_key_of_a_hook_of_ours_is_named_once(load):
    """Keys of all that the package registers are checked, and keys of all hooks."""
    with pytest.raises(UserError) as caught:
        check_config(load("custom_hooks = [dict(type='CurvesHook', oftenn=1)]"))
    assert "CurvesHook does not take: oftenn" in str(caught.value)
    assert not caught.value.others
