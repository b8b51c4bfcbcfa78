"""Predictions as images and in files, for configs of MMDetection and of MMSegmentation."""

from mmengine.config import Config
from mmengine.evaluator import DumpResults

from ..errors import ConfigError


def draw_predictions(cfg: Config, show: bool, folder: str | None, wait_time: float) -> None:
    """Lets a test draw its predictions.

    Args:
        show: In windows, each for `wait_time` seconds.
        folder: Into files of this folder.
        wait_time: In seconds.

    Raises:
        ConfigError: The config has no hook that draws.
    """
    hook = (cfg.get("default_hooks") or {}).get("visualization")
    if hook is None:
        raise ConfigError("--show and --show-dir need default_hooks.visualization in the config, which draws.")
    hook["draw"] = True
    if (cfg.get("visualizer") or {}).get("type") in ("DetLocalVisualizer", "mmdet.DetLocalVisualizer"):
        cfg.visualizer["type"] = "PairVisualizer"
    if show:
        hook.update(show=True, wait_time=wait_time)
    if not folder:
        return
    kind = str(getattr(hook["type"], "__name__", hook["type"])).rpartition(".")[2]
    if kind == "SegVisualizationHook":
        from . import seg_drawing_hook  # noqa: F401 - needs MMSegmentation

        hook["type"] = "SegDrawingHook"
    elif kind == "DetVisualizationHook":
        hook["type"] = "DrawingHook"
    elif is_segmentation(cfg):  # a hook of the user's own
        cfg.visualizer["save_dir"] = folder
        hook["interval"] = 1  # by default only one batch of fifty is drawn
        return
    hook["test_out_dir"] = folder


def dump_metric(cfg: Config, file: str) -> DumpResults:
    """A metric that writes all predictions into a pickle."""
    if is_segmentation(cfg):
        return DumpResults(out_file_path=file)
    from mmdet.evaluation import DumpDetResults  # needs the operators that importing localvit_det puts in place

    return DumpDetResults(out_file_path=file)


def is_segmentation(cfg: Config) -> bool:
    """Whether a config is one of MMSegmentation's."""
    return cfg.get("default_scope") == "mmseg"
