"""What a test draws: a file for each image, and pairs of pictures."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData
from predict_cases import files_in, write_image

from localvit_det import visualization
from localvit_det.errors import OutputError
from localvit_det.visualization import DrawingHook, PairVisualizer, _objects, class_color, draw_predictions

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


def test_datasets_that_do_not_know_their_paths(tmp_path):
    hook, runner = hook_and_runner(tmp_path, ".")
    write_image(tmp_path / "own.jpg")
    before = {path: path.read_bytes() for path in map(tmp_path.joinpath, (*NAMES, "own.jpg"))}
    runner.test_dataloader.dataset = list(NAMES)
    hook.before_test(runner)
    hook.after_test_iter(runner, 0, {}, [SimpleNamespace(img_path=str(path)) for path in before])
    assert {path: path.read_bytes() for path in before} == before
    assert {"1.jpg", "1_2.jpg"} <= files_in(tmp_path)


@pytest.mark.parametrize(("kind", "expected"), [("DetLocalVisualizer", "PairVisualizer"), ("Mine", "Mine")])
def test_configs_draw_pairs_unless_they_draw_in_their_own_way(kind, expected):
    cfg = Config({"default_hooks": {"visualization": {"type": "V"}}, "visualizer": {"type": kind}})
    draw_predictions(cfg, show=False, folder="images", wait_time=0)
    assert cfg.visualizer.type == expected
    assert cfg.default_hooks.visualization.test_out_dir == "images"


# ---- pairs


@pytest.fixture
def instances():
    return InstanceData(labels=torch.tensor([1, 0]), bboxes=torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]))


def test_objects_are_named_by_class_and_score(instances):
    assert _objects(instances, ("cat", "dog")).texts == ["dog", "cat"]
    assert _objects(instances, None).texts == ["class 1", "class 0"]
    instances.scores = torch.tensor([0.517, 0.9])
    objects = _objects(instances, ("cat", "dog"))
    assert objects.texts == ["dog 0.52", "cat 0.90"]
    assert objects.boxes.tolist() == instances.bboxes.tolist()
    assert objects.labels.tolist() == [1, 0]


def test_masks_of_either_kind(instances):
    assert _objects(instances, None).masks is None
    masks = np.zeros((2, 9, 9), np.uint8)
    masks[1, 3, 4] = 1
    for kind in (torch.from_numpy(masks), BitmapMasks(masks, 9, 9)):
        instances.masks = kind
        found = _objects(instances, None).masks
        assert found.dtype == bool
        assert (found == masks.astype(bool)).all()


@pytest.mark.parametrize(
    ("options", "pair"),
    [
        ({}, True),
        ({"draw_gt": False}, False),
        ({"draw_pred": False}, False),
        ({"data_sample": None}, False),
        ({"without": "gt_instances"}, False),
        ({"without": "pred_instances"}, False),
        ({"stuff": True}, False),
    ],
    ids=str,
)
def test_pairs_are_drawn_of_objects_on_both_sides(instances, monkeypatch, options, pair):
    found = InstanceData(labels=torch.tensor([0, 1]), bboxes=instances.bboxes, scores=torch.tensor([0.3, 0.31]))
    sample = DetDataSample(gt_instances=instances, pred_instances=found)
    if name := options.pop("without", None):
        delattr(sample, name)
    if options.pop("stuff", False):
        sample.pred_sem_seg = PixelData(sem_seg=torch.zeros(1, 9, 9))
    drawn, handed_on = [], []
    monkeypatch.setattr(visualization, "draw_pair", lambda image, *sides: drawn.append((image, *sides)) or image)
    monkeypatch.setattr(DetLocalVisualizer, "add_datasample", lambda self, *args, **settings: handed_on.append(args))
    visualizer = PairVisualizer(name="pairs")
    visualizer.dataset_meta = {"classes": ("cat", "dog")}
    image = np.full((9, 9, 3), (1.0, 2.0, 300.0))
    visualizer.add_datasample("a", image, **{"data_sample": sample, "out_file": "x.png", **options})
    assert len(drawn) == pair
    if pair:
        [(picture, truth, objects)] = drawn
        assert picture[0, 0].tolist() == [255, 2, 1]  # BGR of bytes
        assert truth.texts == ["dog", "cat"]
        assert objects.texts == ["dog 0.31"]
        assert handed_on[0][1][0, 0].tolist() == [1, 2, 255]
        assert handed_on[0][2] is None
    else:
        given = {"data_sample": sample, "draw_gt": True, "draw_pred": True, **options}
        assert handed_on == [("a", image, *given.values(), False, 0, "x.png", 0.3, 0)]


def test_file_of_a_pair(tmp_path):
    """In the colors of the classes, BGR, though it was given RGB; what scores 0.1 is left out."""
    box, mask = torch.tensor([[10.0, 20, 40, 50]]), np.zeros((1, 80, 100), np.uint8)
    mask[0, 20:50, 10:40] = 1
    truth = InstanceData(bboxes=box, labels=torch.tensor([1]), masks=BitmapMasks(mask, 80, 100))
    found = InstanceData(bboxes=box.repeat(2, 1), labels=torch.tensor([1, 0]), scores=torch.tensor([0.9, 0.1]))
    found.masks = torch.tensor(mask).bool().repeat(2, 1, 1)
    visualizer = PairVisualizer(name="file")
    visualizer.dataset_meta = {"classes": ("a", "b")}
    sample = DetDataSample(gt_instances=truth, pred_instances=found)
    visualizer.add_datasample("x", np.full((80, 100, 3), 128, np.uint8), sample, out_file=str(tmp_path / "x.png"))
    picture = cv2.imread(str(tmp_path / "x.png"))
    assert picture.shape[1] == 1006  # two copies, five times as large, and the gap
    top = picture.shape[0] - 400
    for left in (0, 506):
        inside = picture[top + 165 : top + 200, left + 100 : left + 150].mean((0, 1))
        np.testing.assert_allclose(inside, 128 * 0.55 + 0.45 * np.array(class_color(1)), atol=2)
