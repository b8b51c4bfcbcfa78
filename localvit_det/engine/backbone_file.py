"""The backbone of a trained classifier or segmentor as a file that detectors start from."""

import re
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..checkpoint.layouts import weights_in
from ..checkpoint.read import load_weights_only
from ..checkpoint.write import save_checkpoint
from ..errors import CheckpointError

BACKBONE_FILE = "backbone.pth"
# The classifier's last norm; a detector has one on each of its maps, and starts them anew. norm3 is MMDetection's Swin.
# Where more stages have one, norms stand in the trunk (Twins-SVT) and the detector goes on with all.
_OUT_NORM = re.compile(r"(out_norms\.|norm)\d\.")


@HOOKS.register_module()
class BackboneFileHook(Hook):
    """Writes the backbone into the work dir at the end of a training, with EMAHook its averaged weights."""

    priority = "LOWEST"  # after the last checkpoint

    def after_run(self, runner: Runner) -> None:
        """Writes `backbone.pth`; nothing after a test, or a training that saves no checkpoints."""
        hook = getattr(runner, "checkpoint_hook", None)
        checkpoint = getattr(hook, "last_ckpt", None)
        if checkpoint is None or not is_main_process():
            return
        target = write_backbone(checkpoint, Path(runner.work_dir) / BACKBONE_FILE)
        runner.logger.info("The backbone is in %s: give it to tools/train.py as --pretrained.", target)


def write_backbone(checkpoint: str | Path, target: str | Path) -> Path:
    """Writes the backbone's weights alone, without the norm that a classifier has after its last stage only.

    Args:
        checkpoint: What MMEngine saved in a training of a model with a part called `backbone`.
        target: The file to write.

    Returns:
        The file.

    Raises:
        CheckpointError: The checkpoint has no such part.
        OutputError: The file cannot be written.
    """
    content = load_weights_only(checkpoint)
    weights = weights_in(content) or {}
    state = {name.removeprefix("backbone."): tensor for name, tensor in weights.items() if name.startswith("backbone.")}
    out_norms = {match[0] for name in state if (match := _OUT_NORM.match(name))}
    if len(out_norms) == 1:
        state = {name: tensor for name, tensor in state.items() if not _OUT_NORM.match(name)}
    if not state:
        raise CheckpointError(f"{checkpoint} holds no backbone: give the checkpoint of a classifier or a detector.")
    meta = content.get("meta") or {}
    facts = {"source": Path(checkpoint).name, "epoch": meta.get("epoch"), "iter": meta.get("iter")}
    save_checkpoint({"state_dict": state, "meta": facts}, str(target))
    return Path(target)
