"""MMEngine calls `torch.load` in five places, one for each kind of address; here all of them become one.

Since PyTorch 2.6 those calls cannot read MMEngine's own checkpoints, and with
TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD set they run whatever a pickle says.
"""

import difflib
import os

from mmengine import dist
from mmengine.runner import checkpoint as mmengine_checkpoint

from ..checkpoint.container import announce
from ..checkpoint.embedded_config import defuse
from ..errors import CheckpointError
from .checkpoint_loading import MapLocation, download, load_weights_only

ALIASES = {
    "torchvision": mmengine_checkpoint.get_torchvision_models,
    "modelzoo": mmengine_checkpoint.get_torchvision_models,
    "open-mmlab": mmengine_checkpoint.get_external_models,
    "openmmlab": mmengine_checkpoint.get_external_models,
    "mmcls": mmengine_checkpoint.get_mmcls_models,
}


def install() -> None:
    """Makes every address that MMEngine knows load through `load_weights_only`."""
    loaders = {
        "": load_from_local,
        ("http://", "https://", "pavi://", r"(\S+\:)?s3://", r"(\S+\:)?petrel://"): load_from_remote,
        tuple(f"{alias}://" for alias in ALIASES): load_from_alias,
    }
    for prefixes, loader in loaders.items():
        mmengine_checkpoint.CheckpointLoader.register_scheme(prefixes, loader, force=True)


# MMEngine's log line cuts the first ten characters off a loader's name, hence "load_from_".
def load_from_local(filename: str | os.PathLike, map_location: MapLocation | None = None) -> dict:
    """Loads a file; without a `map_location` to the CPU, so that a GPU's checkpoint loads anywhere."""
    checkpoint = load_weights_only(filename, "cpu" if map_location is None else map_location)
    defuse(checkpoint, filename)  # MMEngine runs config texts where it resumes and where it infers
    return announce(checkpoint, source=os.fspath(filename))


def load_from_remote(filename: str, map_location: MapLocation | None = None) -> dict:
    """Downloads a checkpoint once, in the first process, and loads it in all."""
    file = download(filename) if dist.get_rank() == 0 else None
    dist.barrier()
    return load_from_local(file or download(filename), map_location)


def load_from_alias(filename: str, map_location: MapLocation | None = None) -> dict:
    """Loads a model that MMEngine knows by a name, such as torchvision://resnet50."""
    scheme, name = filename.split("://", 1)
    name = mmengine_checkpoint.get_deprecated_model_names().get(name, name)
    addresses = ALIASES[scheme]()
    if name not in addresses:
        nearest = difflib.get_close_matches(name, addresses, n=1)
        hint = f"did you mean {scheme}://{nearest[0]}?" if nearest else "give an https address or a path."
        raise CheckpointError(f"No model has the name {filename}: {hint}")
    address = addresses[name]
    load = load_from_remote if "://" in address else load_from_local
    if load is load_from_local:
        address = f"{mmengine_checkpoint._get_mmengine_home()}/{address}"
    checkpoint = load(address, map_location)
    return mmengine_checkpoint._process_mmcls_checkpoint(checkpoint) if scheme == "mmcls" else checkpoint
