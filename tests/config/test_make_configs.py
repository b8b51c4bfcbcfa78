"""The generated configs are what their tables give, whatever a family calls its sizes."""

import pytest

import make_configs
from localvit_det.backbones import GGTransformer


def test_configs_are_current():
    assert not make_configs.stale(), "run tools/make_configs.py"


ONE = {"embed_dims": 64, "depths": (2, 2, 6, 2), "num_heads": (2, 4, 8, 16), "drop_path_rate": 0.1}


@pytest.mark.parametrize(
    ("sizes", "names"),
    [(("tiny", "small"), ["gg_t", "gg_s"]), (("s12", "s24", "m36"), ["gg_s12", "gg_s24", "gg_m36"])],
    ids=["letters", "alike"],
)
def test_sizes_of_any_name_have_their_configs(monkeypatch, sizes, names):
    monkeypatch.setattr(GGTransformer, "arch_settings", dict.fromkeys(sizes, ONE))
    found = make_configs.texts()
    assert [name for name in found if name.startswith("mask_rcnn_gg_") and name.endswith("_3x_coco")] == [
        f"mask_rcnn_{name}_3x_coco" for name in names
    ]
    assert f'arch="{sizes[0]}"' in found[f"pretrain/{names[0]}_in1k"]
    assert f"pretrain/{names[1]}_in1k" not in found


def test_a_row_without_a_size_is_refused(monkeypatch):
    monkeypatch.setattr(make_configs, "RECIPES", [("dino", "dino_{}_coco", ("gg_x",))])
    with pytest.raises(SystemExit, match=r"'gg_x' names no size of GGTransformer \(t, s, b\): correct the tables"):
        make_configs.texts()
