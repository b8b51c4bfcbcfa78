"""The generated configs are what their tables give."""

import pytest

import make_configs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy as the tables give it."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "pretrain").mkdir()
    for name, text in make_configs.texts().items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


def test_configs_are_current():
    assert not make_configs.stale(), "run tools/make_configs.py"


def test_what_differs_is_told(folder, monkeypatch, capsys):
    assert not make_configs.stale(folder)
    monkeypatch.setattr(make_configs, "FOLDER", folder)
    monkeypatch.setattr(make_configs.stale, "__defaults__", (folder,))
    path = folder / "mask_rcnn_gg_t_coco.py"
    text = path.read_text()
    path.write_text(text.replace("tiny", "small"))
    (folder / "mask_rcnn_gone_coco.py").write_text(text)
    (folder / "mine.py").write_text("a = 1\n")
    with pytest.raises(SystemExit, match=r"mask_rcnn_gg_t_coco, mask_rcnn_gone_coco\. Run it"):
        make_configs.main(["--check"])
    make_configs.main([])
    assert path.read_text() == text
    assert not (folder / "mask_rcnn_gone_coco.py").exists()
    assert (folder / "mine.py").exists()
    written = ["wrote official_weights.json", "wrote mask_rcnn_gg_t_coco.py", "removed mask_rcnn_gone_coco.py"]
    assert capsys.readouterr().out.splitlines() == written
