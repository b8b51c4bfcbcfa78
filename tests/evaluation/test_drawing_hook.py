"""`--show-dir`: a file for each image."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from predict_cases import files_in, write_image

from localvit_det.errors import OutputError
from localvit_det.evaluation import DrawingHook
from localvit_det.evaluation.showing import draw_predictions

NAMES = ("a/1.jpg", "b/1.jpg", "b/2.jpg", "c/A.png", "c/a.jpg")


class Dataset(list):
    def get_data_info(self, index: int) -> dict[str, str]:
        return self[index]


class Visualizer:
    """Writes empty files, or fails."""

    def add_datasample(self, *_: object, data_sample: object, out_file: str, **__: object) -> None:
        if data_sample.img_path.endswith("2.jpg"):
            raise OSError("No space left on device")
        Path(out_file).write_bytes(b"")


def hook_and_runner(tmp_path: Path, out: str) -> tuple[DrawingHook, SimpleNamespace]:
    for name in NAMES:
        write_image(tmp_path / name)
    dataset = Dataset({"img_path": str(tmp_path / name)} for name in NAMES)
    cfg = Config({"default_hooks": {"visualization": {"type": "DetVisualizationHook"}}})
    draw_predictions(cfg, show=False, folder=str(tmp_path / out), wait_time=0)
    settings = {**cfg.default_hooks.visualization}
    assert settings.pop("type") == "DrawingHook"
    DetLocalVisualizer.get_instance("drawing")
    hook = DrawingHook(**settings)
    hook._visualizer = Visualizer()
    return hook, SimpleNamespace(cfg=cfg, test_dataloader=SimpleNamespace(dataset=dataset))


def test_images_of_one_name(tmp_path):
    """They keep their folders, the others their plain names; what cannot be drawn ends nothing."""
    hook, runner = hook_and_runner(tmp_path, "out")
    hook.before_test(runner)
    hook.after_test_iter(runner, 0, {}, [SimpleNamespace(img_path=str(tmp_path / name)) for name in NAMES])
    assert files_in(tmp_path / "out") == {"a/1.jpg", "b/1.jpg", "A.png", "a.jpg"}


def test_images_are_not_written_over(tmp_path):
    hook, runner = hook_and_runner(tmp_path, ".")
    with pytest.raises(OutputError, match="written over an image that is read"):
        hook.before_test(runner)
