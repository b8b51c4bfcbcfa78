"""Folders as the Hugging Face Hub has them; nothing goes over the network."""

import json
import os

import numpy as np
import pytest
import torch
from families import FEW, build
from mmdet.registry import MODELS
from predict_cases import CLASSES, picture

from localvit_det import Detector
from localvit_det.backbones import GGTransformer, LocalViT, ShuffleTransformer
from localvit_det.errors import CheckpointError, ConfigError

hub = pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")
torch_files = pytest.importorskip("safetensors.torch", reason="the extra hub is not installed")


@pytest.mark.parametrize("family", FEW)
def test_backbone_comes_back_as_it_was(family, tmp_path):
    net = build(family, out_indices=(1, 3), drop_rate=0.1, out_norm_cfg={"type": "BN", "eps": 1e-4}).eval()
    net.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    again = MODELS.get(family).from_pretrained(tmp_path)
    assert type(LocalViT.from_pretrained(tmp_path)) is type(again) is type(net)
    assert not again.training
    assert json.dumps(again.hub_files().config, sort_keys=True) == json.dumps(net.hub_files().config, sort_keys=True)
    image = torch.rand(1, 3, 64, 64)
    for one, other in zip(net(image), again(image), strict=True):
        assert torch.equal(one, other)
    assert again.out_norms["1"].eps == 1e-4
    assert MODELS.get(family).from_pretrained(tmp_path, frozen_stages=1).frozen_stages == 1


def test_card_is_written_from_the_config(tmp_path):
    net = build("ShuffleTransformer")
    net.save_pretrained(tmp_path)
    card = hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "localvit_det"
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert "# Shuffle Transformer" in card.text
    assert "from localvit_det.backbones import ShuffleTransformer" in card.text
    written = json.loads(card.text.split("```json\n")[1].split("```")[0])
    assert written == json.loads((tmp_path / "config.json").read_text())
    assert written["embed_dims"] == [32, 64, 128, 256]


def test_upload_is_the_mixins(tmp_path, monkeypatch):
    sent = {}

    class Api:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, repo_id, **options):
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, folder_path, **options):
            sent.update(options, files=sorted(os.listdir(folder_path)))
            return "https://commit"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    net = build("GGTransformer")
    assert net.push_to_hub("me/gg", commit_message="First") == "https://commit"
    assert sent["files"] == ["README.md", "config.json", "model.safetensors"]
    assert (sent["repo_id"], sent["commit_message"]) == ("me/gg", "First")
    net.save_pretrained(tmp_path / "hub")
    asked = {}

    def download(repo, **options):
        asked.update(options, repo=repo)
        return tmp_path / "hub"

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    GGTransformer.from_pretrained("me/gg", revision="v1")
    assert (asked["repo"], asked["revision"]) == ("me/gg", "v1")
    assert asked["allow_patterns"] == ["model.safetensors", "config.json"]  # no pickle is even downloaded


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"act_cfg": {"type": "ExportedDetector", "file": "x"}}, "ExportedDetector"),
        ({"norm_cfg": {"type": "BN", "path": "/etc/passwd"}}, "may name a file"),
        ({"embed_dims": [400_000] * 4}, "many times larger"),
        ({"depths": [-1, 1, 1, 1]}, "describes no network|does not fit"),
        ({"unknown": 1}, "unknown"),
        ({"type": "ResNet"}, "is of a ResNet"),
        ({"type": "DWNet"}, "is of a DWNet, and no ShuffleTransformer"),
    ],
)
def test_what_others_wrote_is_checked(change, words, tmp_path):
    build("ShuffleTransformer").save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(CheckpointError, match=words):
        ShuffleTransformer.from_pretrained(tmp_path)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_missing_file(missing, tmp_path):
    build("ShuffleTransformer").save_pretrained(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(CheckpointError, match=missing):
        ShuffleTransformer.from_pretrained(tmp_path)


def test_initial_weights_are_not_looked_for(tmp_path):
    net = build("ShuffleTransformer", init_cfg={"type": "Pretrained", "checkpoint": "nowhere.pth"})
    net.save_pretrained(tmp_path)
    assert ShuffleTransformer.from_pretrained(tmp_path).init_cfg is None


def test_fused_network_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="changed after it was made"):
        build("ShuffleTransformer").fuse().save_pretrained(tmp_path)


def test_detector(published_file, tmp_path):
    detector = Detector(published_file)  # fused
    detector.save_pretrained(tmp_path / "hub")
    again = Detector.from_pretrained(tmp_path / "hub", device="cpu")
    assert again.classes == tuple(CLASSES)
    found, expected = again(picture(), score=0.01), detector(picture(), score=0.01)
    assert len(expected.scores)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.masks, expected.masks)
    card = (tmp_path / "hub/README.md").read_text()
    assert "# MaskRCNN with ShuffleTransformer" in card
    assert "pipeline_tag: object-detection" in card


def test_config_of_a_strangers_detector_is_refused(published_file, tmp_path):
    meta = {"cfg": json.dumps({"model": {"type": "MaskRCNN", "backbone": {"type": "os.system", "command": "true"}}})}
    file = tmp_path / "model.safetensors"
    torch_files.save_file({"x": torch.zeros(1)}, file, {"localvit_det": json.dumps(meta)})
    with pytest.raises(CheckpointError, match=r"os\.system"):
        Detector.from_pretrained(tmp_path)
