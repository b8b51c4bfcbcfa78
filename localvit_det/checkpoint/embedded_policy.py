"""What a config of plain values may ask for when it came inside a checkpoint.

MMEngine imports whatever a `type` names and calls it with the other keys; MMCV evaluates the `type` of an NMS. So a
config without any code can still run some, fetch or send something, or write where it likes.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Mapping
from typing import Any

PACKAGES = ("localvit_det", "mmdet")  # whose modules a file may import
SCOPES = ("mmdet", "mmengine")
_TRUST = "pass --trust-config if you know who made the file"

# How a run was started says nothing about the model.
OF_THE_RUN = (
    *("work_dir", "launcher", "load_from", "resume", "load_policy", "pretrained", "runner_type", "compile", "draw"),
    *("strategy", "strategy_wrapper", "model_wrapper_cfg", "auto_resume", "experiment_name"),
)
# Registered, but they write files where they are told to, send data away, fetch models by a name, or evaluate texts.
_REACH_OUT = {
    **dict.fromkeys(("DumpResults", "DumpDetResults", "DumpODVGResults", "DumpProposals"), "writes files"),
    **dict.fromkeys(("ProfilerHook", "NPUProfilerHook"), "writes files"),
    **dict.fromkeys(("WandbVisBackend", "MLflowVisBackend", "ClearMLVisBackend"), "sends data away"),
    **dict.fromkeys(("NeptuneVisBackend", "DVCLiveVisBackend", "AimVisBackend"), "sends data away"),
    **dict.fromkeys(("BertModel", "RandomSamplingNegPos"), "fetches files by a name"),
    **dict.fromkeys(("CameraMotionCompensation", "RFSearchHook"), "evaluates texts of the config"),
    **dict.fromkeys(("Runner", "FlexibleRunner"), "starts a run of its own"),
}
# Keys that say where something is written, and what would be fetched.
_OUTPUTS = {
    *("out_dir", "save_dir", "test_out_dir", "output_dir", "outfile_prefix", "outfile_path", "out_file_path"),
    *("proposals_file", "json_trace_path", "result_path", "config_save_file", "scalar_save_file", "img_save_dir"),
    *("rfstructure_file", "tracking_uri", "log_dir", "work_dir", "collect_dir", "teacher_ckpt"),
}
_BACKENDS = ("backend_args", "file_client_args")
# Names of types, though the key is not `type`.
_TYPE_KEYS = re.compile(r"(?:constructor|\w*_(?:type|cls|class|module|fn|func))$")
_WORD = re.compile(r"[\w+-]*$")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# Of mmcv.ops, which has no registry.
_OPERATORS = {
    *("nms", "soft_nms", "nms_match", "RoIAlign", "RoIPool", "PrRoIPool", "DeformRoIPool", "DeformRoIPoolPack"),
    *("ModulatedDeformRoIPoolPack", "RoIAlignRotated", "RiRoIAlignRotated"),
}


def vet(values: Mapping[str, Any], trusted: bool) -> tuple[dict[str, Any], list[str]]:
    """Takes from a config what belongs to the model and its data.

    Weights to start from and outputs are left out: neither is needed by who has the trained weights.

    Args:
        trusted: Take imports, types and addresses of others, and outputs, too.

    Returns:
        The values, and a sentence for each thing left out that a training would miss.

    Raises:
        ValueError: It asks for code of others, or for something far away.
    """
    values = {key: value for key, value in values.items() if key not in OF_THE_RUN}
    if "_base_" in values:
        raise ValueError("its _base_ names another config, where a whole one is needed")
    notes: list[str] = []
    values["model"] = _without_pretrained(values.get("model"))
    if not trusted:
        imports = (values.get("custom_imports") or {}).get("imports") or []
        for name in [imports] if isinstance(imports, str) else imports:
            # What is imported already runs nothing when imported again.
            if str(name).partition(".")[0] not in PACKAGES and name not in sys.modules:
                raise ValueError(f"its custom_imports name {name}, which would be imported: {_TRUST}")
        # What stands at the top is an address that other configs took their part from; nobody reads it here.
        values = {key: value for key, value in values.items() if not _is_address(value)}
        values = {key: _vetted(value, key, key, notes) for key, value in values.items()}
    if values["model"] is None:
        del values["model"]
    return values, notes


def _vetted(value: Any, key: object, path: str, notes: list[str]) -> Any:
    """A copy of `value` without outputs; `path` is the dotted one for messages."""
    if key in ("classes", "palette", "CLASSES", "PALETTE"):
        return value
    if key == "default_scope" or key == "_scope_":
        if value not in (None, *SCOPES):
            raise ValueError(f"{path} '{value}' would import the package of that name: {_TRUST}")
        return value
    if isinstance(value, str):
        if _is_address(value):
            raise ValueError(f"{path} is an address, which would be fetched ({value[:60]}): {_TRUST}")
        if isinstance(key, str) and _TYPE_KEYS.match(key) and not _WORD.match(value):
            raise ValueError(f"{path} '{value[:60]}' may name anything that can be called: {_TRUST}")
        return value
    if isinstance(value, dict):
        return _vetted_dict(value, path, notes)
    if isinstance(value, (list, tuple)):
        kept = []
        for index, item in enumerate(value):
            kind = item.get("type") if isinstance(item, dict) else None
            if isinstance(kind, str) and (why := _REACH_OUT.get(kind.rpartition(".")[2])):
                notes.append(f"{path}.{index}, {kind}, is left out, because it {why}.")
            else:
                kept.append(_vetted(item, key, f"{path}.{index}", notes))
        return type(value)(kept)
    return value


def _vetted_dict(value: dict, path: str, notes: list[str]) -> dict:
    result = {}
    for key, item in value.items():
        here = f"{path}.{key}"
        if key == "type" and isinstance(item, str):
            result[key] = _known_type(item, here)
        elif key in _OUTPUTS and item is not None:
            notes.append(f"{here}={item!r} is left out, because it says where to write.")
        elif key in _BACKENDS and item and item != {"backend": "local"}:
            notes.append(f"{here} is left out, because it reads from elsewhere.")
        else:
            result[key] = _vetted(item, key, here, notes)
    return result


def _known_type(name: str, path: str) -> str:
    """The name, in the short form, of a type that a registry holds."""
    short = name.rpartition(".")[2]
    if why := _REACH_OUT.get(short):
        raise ValueError(f"{path} '{name}' {why}: {_TRUST}")
    scope, _, rest = name.partition(".")
    scopes = _registered_names()
    known = set().union(*scopes.values())
    if name in known or name in _OPERATORS or (scope in SCOPES and rest in scopes[scope]):
        return name
    # Configs in the newer style name the place of a class, too; the registries know it without importing that.
    if re.fullmatch(r"(?:mmdet|mmengine|mmcv|torch|localvit_det)(?:\.\w+)+", name) and short in known:
        return short
    raise ValueError(f"{path} '{name[:60]}' is none of MMDetection's or this package's types: {_TRUST}")


def _without_pretrained(node: Any) -> Any:
    """A copy of the model's config that starts from no other weights."""
    if isinstance(node, (list, tuple)):
        return type(node)(_without_pretrained(item) for item in node if not _is_pretrained(item))
    if not isinstance(node, dict):
        return node
    result = {}
    for key, item in node.items():
        # some backbones know by themselves that the file of their init_cfg holds weights
        if (
            _is_pretrained(item)
            or (key == "init_cfg" and "checkpoint" in (item or {}))
            or (key == "pretrained" and isinstance(item, str))
        ):
            item = None
        result[key] = _without_pretrained(item)
    return result


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and bool(_ADDRESS.match(value))


def _is_pretrained(node: Any) -> bool:
    return isinstance(node, dict) and str(node.get("type")).rpartition(".")[2] in ("Pretrained", "PretrainedInit")


@functools.lru_cache(maxsize=1)
def _registries() -> list:
    import mmdet.registry
    import mmengine.registry
    from mmdet.utils import register_all_modules
    from mmengine.registry import Registry

    register_all_modules(init_default_scope=False)
    found = [value for module in (mmdet.registry, mmengine.registry) for value in vars(module).values()]
    return [registry for registry in found if isinstance(registry, Registry)]


def _registered_names() -> dict[str, set[str]]:
    """Names by scope; not kept, because a user's own modules may come in later."""
    names: dict[str, set[str]] = {scope: set() for scope in SCOPES}
    for registry in _registries():
        names.setdefault(registry.scope, set()).update(registry.module_dict)
    return names
