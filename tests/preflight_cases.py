"""Configs over good and bad data, and what their check says."""

import logging

import pytest
from coco_folder import NAMES, write_coco, write_config

import localvit_det  # noqa: F401
from localvit_det import preflight
from localvit_det.config import load_config, model
from localvit_det.preflight import check_config

SHUFFLE = "model = dict(backbone=dict(_delete_=True, type='ShuffleTransformer', {}))"


@pytest.fixture
def logged(monkeypatch):
    """Lines that the modules log, as (level, text)."""
    lines = []

    def record(message, logger, level=logging.INFO):
        lines.append((level, message))

    for module in (model, preflight.data, preflight.classes):
        monkeypatch.setattr(module, "print_log", record)
    return lines


@pytest.fixture
def load(tmp_path):
    """Loads a config over a good COCO folder with three classes, as the tools do before check_config."""

    def load_one(body="", train=None, val=None, model="mask-rcnn_r50_fpn", **options):
        root = write_coco(tmp_path / "mine", train, val)
        options = {"data_root": str(root), "classes": list(NAMES), **options}
        options = {key: value for key, value in options.items() if value is not None}
        cfg = load_config(write_config(tmp_path, body, model), options)
        cfg.work_dir = str(tmp_path / "work_dirs/run")
        return cfg

    return load_one


def fails(cfg, kind, *words, train=True):
    with pytest.raises(kind) as caught:
        check_config(cfg, train=train)
    sentence = str(caught.value)
    assert "\n" not in sentence
    for word in words:
        assert str(word) in sentence
