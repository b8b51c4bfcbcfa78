"""tools/check_data.py, and what runs do with broken images."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from coco_folder import edited, write_coco, write_config
from conftest import REPOSITORY
from forked import Forked, _one_thread_and_no_process_left  # noqa: F401 - a fixture
from torch.utils.data import DataLoader

from localvit.commands import train
from localvit_det.cli import format_error
from localvit_det.datasets.synthetic_shapes import make_shapes
from localvit_det.errors import DataError, UserError
from localvit_det.preflight.images import all_faults


def check(capsys, config: Path, root: Path, *arguments: str) -> tuple[int, str, list[str]]:
    """Exit code, output and sentences of the tool."""
    main = runpy.run_path(str(REPOSITORY / "tools/check_data.py"))["main"]
    code = 0
    try:
        main([str(config), *arguments, "--cfg-options", f"data_root={root}", "classes=auto"])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, [line[7:] for line in captured.err.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("arguments", [(), ("--images", "--workers", "2")])
def test_good_data(capsys, tmp_path, arguments):
    root = write_coco(tmp_path / "my data, good")
    code, out, sentences = check(capsys, write_config(tmp_path), root, *arguments)
    assert (code, sentences) == (0, [])
    assert "are good" in out
    assert out.count("4 images of") == (2 if arguments else 0)  # test and val are the same


def test_every_mistake_is_named(capsys, tmp_path):
    def spoil(content):
        content["annotations"][0]["bbox"] = [float("nan"), 1, 2, 3]
        content["annotations"][1]["segmentation"] = [["a", "b"]]
        content["annotations"][2].pop("iscrowd")

    root = write_coco(tmp_path / "mine", edited(spoil), edited(lambda c: c["images"][0].update(width=0)))
    (root / "train2017/002.jpg").unlink()
    (root / "train2017/003.jpg").write_bytes(b"")
    code, out, sentences = check(capsys, write_config(tmp_path), root, "--images", "--workers", "2")
    assert code == 1
    *reported, last = sentences
    for words in (
        "1 of the 4 images that",
        "NaN or infinity in bbox or area (id 1)",
        "something else than numbers in their polygons (id 2)",
        "image id 1 (001.jpg) with the size 0 x 80",
        "train2017/002.jpg cannot be read (No such file or directory)",
        "train2017/003.jpg is empty",
    ):
        assert sum(words in sentence for sentence in reported) == 1, words
    assert last.startswith(f"{len(reported)} problems found in the data")
    assert "4 images of" in out


class Bad:
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise DataError("The image a.jpg is\nbroken: fix it.")


def test_format_error_a_data_worker():
    with pytest.raises(UserError) as caught:
        next(iter(DataLoader(Bad(), num_workers=1)))
    assert "Traceback" in str(caught.value)
    assert format_error(caught.value) == "The image a.jpg is broken: fix it."
    assert format_error(DataError("a.jpg\nis\x1b broken.")) == "a.jpg is  broken."


@pytest.mark.slow
def test_runs_go_on_without_broken_images(tmp_path, capfd):
    root = make_shapes(tmp_path / "shapes", num_train=12, num_val=3, size=64)
    (root / "train2017/000000000001.jpg").write_bytes(b"")
    broken = root / "val2017/000000000013.jpg"
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    options = ["mask_rcnn_shuffle_nano_shapes", "--work-dir", str(tmp_path / "run")]
    options += ["--cfg-options", f"data_root={root}", "train_cfg.max_epochs=1", "train_cfg.val_interval=1"]
    options += ["train_dataloader.batch_size=4", "image_size=64", "workers=1", "omit_hooks=CurvesHook"]

    train.main(options)
    reported = "".join(capfd.readouterr())
    assert "000000000001.jpg is empty; it is skipped (1 so far" in reported
    assert "000000000013.jpg is a JPEG that is cut off; it counts as one without detections" in reported
    assert "\nbbox  " in reported

    with pytest.raises(SystemExit) as stop:
        train.main([*options, "broken_images=stop"])
    assert stop.value.code == 1
    said = capfd.readouterr().err
    assert "Traceback" not in said
    [sentence] = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "000000000001.jpg is empty: fix or remove it" in sentence


def test_images_are_looked_at_where_opencv_has_threads(tmp_path):
    """Forked processes do not have them, and would wait for them."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 6, 3), np.uint8))
    found = SimpleNamespace(images={1: ("a.png", 6, 4), 2: ("none.png", 6, 4)})

    def look() -> None:
        cv2.setNumThreads(4)
        cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (5, 5), 1)  # starts them
        print([fault is None for _, fault in all_faults(found, str(tmp_path), 100, 2)])

    process = Forked(look, tmp_path / "said.txt")
    assert process.wait(60) == 0
    assert process.text() == "[True, False]\n"
