"""The command `localvit`: what it lists, how it ends, and that an installation has all it needs."""

import importlib.util
import json

import pytest
from conftest import REPOSITORY

from localvit.__main__ import COMMANDS, main
from localvit.commands import module_of, test, train
from localvit.commands.listings import configs
from localvit_det.cli import aligned
from localvit_det.config import load_config
from localvit_det.config_names import config_names, find_config
from localvit_det.errors import ConfigError

NAME = "mask_rcnn_shuffle_nano_shapes"


def test_help_names_every_command_and_each_exists(capsys):
    main(["--help"])
    out = capsys.readouterr().out
    for name in COMMANDS:
        assert f"  {name} " in out
        assert importlib.util.find_spec(module_of(name))
    main(["--version"])
    assert capsys.readouterr().out.startswith("localvit_det ")


def test_misspelt_command(refused):
    assert "did you mean 'train'" in refused(main, "trian")


class TestConfigs:
    def test_all_are_listed(self, capsys):
        configs([])
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines[1:]] == config_names()
        (dwnet,) = (line for line in lines if line.startswith("cascade_mask_rcnn_dwnet_t_3x_coco "))
        assert "DWNet" in dwnet
        assert "49.9 / 43.4" in dwnet

    def test_some_as_json(self, capsys):
        configs(["mask_rcnn_shuffle", "nano", "--json"])
        (one,) = json.loads(capsys.readouterr().out)
        assert one["config"] == NAME
        assert one["parameters"] > 1e6
        assert load_config(one["file"]).model.backbone.type == one["backbone"]

    def test_none(self, refused):
        assert "No config has 'shufle'" in refused(configs, "shufle")


class TestNames:
    @pytest.mark.parametrize("name", [NAME, f"{NAME}.py", f"localvit_det::{NAME}.py", f"localvit_det::{NAME}"])
    def test_config_by_name(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert load_config(name).model == load_config(REPOSITORY / f"configs/{NAME}.py").model
        assert find_config("pretrain/gg_t_in1k").is_file()

    def test_own_file_comes_first(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / f"{NAME}.py").write_text("model = dict(type='Mine')\n")
        assert load_config(f"{NAME}.py").model.type == "Mine"

    def test_as_a_base(self, tmp_path):
        config = tmp_path / "mine.py"
        config.write_text(f"_base_ = 'localvit_det::{NAME}.py'\ntrain_cfg = dict(max_epochs=2)\n")
        cfg = load_config(config)
        assert cfg.train_cfg.max_epochs == 2
        assert cfg.model == load_config(NAME).model
        config.write_text("_base_ = ['localvit_det::_base_/mask_rcnn.py']\n")
        assert load_config(config).model.type == "MaskRCNN"

    def test_misspelt_name(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError, match=r"did you mean 'mask_rcnn_shuffle_t_coco'.*localvit configs"):
            load_config("mask_rcnn_shufle_t_coco")


@pytest.mark.parametrize("arguments", [[], ["on"], ["off"], ["status"]])
def test_the_hook_is_gone(arguments, refused):
    sentence = refused(main, "hook", *arguments)
    assert "custom_imports = dict(imports=['localvit_det'])" in sentence
    assert sentence.count("\n") == 1


@pytest.mark.parametrize(("trains", "command"), [(True, train), (False, test)])
def test_all_mistakes_of_a_command_at_once(trains, command, tmp_path, refused):
    """Of names that nothing reads, of the model and of the data, each once; of a test also its checkpoint."""
    absent = tmp_path / "absent"
    checkpoint = [] if trains else [str(tmp_path / "none.pth")]
    options = ["learning_rate=0.1", "batch_size=3", "model.backbone.windw_size=4", f"data_root={absent}"]
    (tmp_path / "none.pth").touch()  # one that is missing is reported before all else
    said = refused(command.main, NAME, *checkpoint, "--work-dir", tmp_path / "W", "--cfg-options", *options)
    reported = [line for line in said.splitlines() if line.startswith("error: ")]
    for words in ("set lr=0.1", "set batch=3", *(["windw_size", str(absent)] if trains else checkpoint)):
        assert sum(words in line for line in reported) == 1, (words, reported)
    # The loading may be what fails.
    said = refused(command.main, NAME, *checkpoint, "--cfg-options", "lr0=0.1", "val_split=7")
    reported = [line for line in said.splitlines() if line.startswith("error: ")]
    assert ["val_split=7" in reported[0], "set lr=0.1" in reported[1], len(reported)] == [True, True, 2]


def test_numbers_of_a_table_end_flush():
    assert aligned([("name", "AP"), ("a", "4.5"), ("longest", "51.0")], right=(1,)).split("\n") == [
        "name       AP",
        "a         4.5",
        "longest  51.0",
    ]
