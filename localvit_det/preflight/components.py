"""Check what a config builds: known types, known keys, channels that fit."""

import inspect
import re
from collections.abc import Collection, Iterator

import mmdet.registry
import torch
from mmdet.registry import DATA_SAMPLERS, HOOKS, LOOPS, MODELS, OPTIMIZERS
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import Registry
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ..backbones import LocalViT
from ..config.load import RUNNER
from ..config.model import compared_channels, known_channels, readers
from ..config.utils import registered, walk
from ..errors import ConfigError, did_you_mean

_PARTS = re.compile(r"(?:model|backbone|neck|data_preprocessor|\w+_head)(?:\.\d+)?$")
_PACKAGE = __name__.partition(".")[0] + "."
_NOT_ARGUMENTS = {"type", "_scope_", "_delete_"}
_OF_BUILDERS = {"paramwise_cfg", "constructor", "priority"}  # read by what builds optimizers and hooks
_RUNNERS = (None, "Runner", "mmengine.Runner", RUNNER)  # another one may read more
_CONSTRUCTORS = (None, "DefaultOptimWrapperConstructor", "BackboneConstructor", "LayerDecayConstructor")  # likewise
_OF_LOADERS = {
    *("dataset", "sampler", "batch_sampler", "worker_init_fn", "collate_fn", "num_batch_per_epoch"),
    "disable_subprocess_warning",
}

Part = tuple[str, dict, str, set[str]]  # dotted path, config, name of what it makes, keys that this takes


def check_types(cfg: Config) -> None:
    """Check that the types of the model and its main parts are registered.

    Raises:
        ConfigError: One is not.
    """
    for path, node in walk(cfg.get("model"), "model"):
        name = node.get("type")
        if isinstance(name, str) and _PARTS.search(path) and registered(MODELS, name) is None:
            hint = "" if "." in name else did_you_mean(name, MODELS.module_dict)
            raise ConfigError(
                f"{path}.type '{name}' is not a registered model{hint}: correct it, or name its package in "
                "custom_imports."
            )


def check_keys(cfg: Config) -> None:
    """Check the keys of everything in `cfg` that this package registers.

    Raises:
        ConfigError: A key that the class does not take.
    """
    registries = [value for value in vars(mmdet.registry).values() if isinstance(value, Registry)]
    ours = {name: cls for registry in registries for name, cls in registry.module_dict.items() if _is_ours(cls)}
    for path, node in walk(cfg._cfg_dict.to_dict()):
        kind = node.get("type")
        cls = ours.get(kind.rpartition(".")[2]) if isinstance(kind, str) else kind
        if isinstance(cls, type) and cls in ours.values():
            way = ", or drop what a parent config left there with _delete_=True"
            _check(path, node, cls.__name__, (_taken(cls) or set()) | _OF_BUILDERS, way)


def check_built_keys(cfg: Config, train: bool) -> None:
    """Check keys of hooks, loops, loaders, samplers and the optimizer, on some of which a run breaks late.

    What a class with `**kwargs` of others makes of a key is not known, and is passed over.

    Args:
        train: As of `check_config`.

    Raises:
        ConfigError: A key is not taken, or a hook has no type.
    """
    if cfg.get("runner_type") in _RUNNERS:
        for part in _built_parts(cfg, train):
            _check(*part)


def check_backbone(cfg: Config) -> None:
    """Check that backbones accept their arguments and give the channels that necks and heads expect.

    Raises:
        ConfigError: They do not; for channels the sentence has both lists.
    """
    for path, node in walk(cfg.get("model"), "model"):
        backbone = node.get("backbone")
        if not isinstance(backbone, dict) or not (parts := list(readers(node))):
            continue
        channels = (
            _measured_channels(backbone, f"{path}.backbone", "meta")
            or known_channels(backbone)
            or _measured_channels(backbone, f"{path}.backbone", "cpu")
        )
        if channels is None:
            continue
        for key, part in parts:
            expected, wanted = compared_channels(part, channels)
            if wanted is not None and wanted != expected:
                raise ConfigError(
                    f"{path}.backbone {backbone['type']} gives feature maps with {list(channels)} channels, but "
                    f"{path}.{key}.in_channels is {expected}: set it to {wanted}."
                )


def _check(path: str, node: dict, name: str, taken: set[str], way: str = "") -> None:
    """Refuse keys of a config that what it makes does not take.

    Args:
        way: What else helps.
    """
    unknown = [str(key) for key in node if key not in taken | _NOT_ARGUMENTS]
    if unknown:
        hints = ", ".join(f"{key}{did_you_mean(key, taken)}" for key in unknown)
        raise ConfigError(f"{path} has keys that {name} does not take: {hints}; correct or remove them{way}.")


def _built_parts(cfg: Config, train: bool) -> Iterator[Part]:
    """Yield what the runner builds of others' classes: of ours all keys are checked wherever they stand."""
    yield from _hooks(cfg)
    for split in ("train", "val") if train else ("test",):
        loader, loop = cfg.get(f"{split}_dataloader"), cfg.get(f"{split}_cfg")
        if isinstance(loader, dict):
            yield f"{split}_dataloader", loader, "a dataloader", (_taken(DataLoader) or set()) | _OF_LOADERS
            for key in ("sampler", "batch_sampler"):
                yield from _part(DATA_SAMPLERS, f"{split}_dataloader.{key}", loader.get(key))
        if isinstance(loop, dict):
            epochs = loop.get("by_epoch", True)
            kind = f"{split.capitalize()}Loop" if split != "train" else f"{'Epoch' if epochs else 'Iter'}BasedTrainLoop"
            named = {key: value for key, value in loop.items() if "type" in loop or key != "by_epoch"}
            yield from _part(LOOPS, f"{split}_cfg", {"type": kind, **named})
    wrapper = cfg.get("optim_wrapper")
    if train and isinstance(wrapper, dict) and wrapper.get("constructor") in _CONSTRUCTORS:
        yield from _part(OPTIMIZERS, "optim_wrapper.optimizer", wrapper.get("optimizer"))


def _hooks(cfg: Config) -> Iterator[Part]:
    named = [(f"default_hooks.{name}", hook) for name, hook in (cfg.get("default_hooks") or {}).items()]
    # Without a number: `add_hooks` may have left out others before it.
    for path, hook in [*named, *(("custom_hooks", hook) for hook in cfg.get("custom_hooks") or [])]:
        if isinstance(hook, dict) and "type" not in hook:
            hint = did_you_mean(path, [one for one, _ in named if one != path])
            raise ConfigError(f"{path} has a hook without a type{hint}: correct its name, or give it a type.")
        more = {"priority"}
        if isinstance(hook, dict) and registered(HOOKS, hook) is CheckpointHook:  # hands keys on at the first save
            more |= set(inspect.signature(Runner.save_checkpoint).parameters) - {"self"}
            more |= {"every_minutes"} if cfg.get("runner_type") == RUNNER else set()
        yield from _part(HOOKS, path, hook, more)


def _part(registry: Registry, path: str, node: object, more: Collection[str] = ()) -> Iterator[Part]:
    if isinstance(node, dict) and isinstance(cls := registered(registry, node), type) and not _is_ours(cls):
        taken = _taken(cls)
        if taken is not None:
            yield path, node, cls.__name__, taken.union(more)


def _taken(cls: type) -> set[str] | None:
    """Return the names of the arguments that a class takes, those behind our `**kwargs` included.

    None for a class of others with `**kwargs`, which may go anywhere; MMEngine's `CheckpointHook` is known.
    """
    names: set[str] = set()
    for base in cls.__mro__[:-1]:  # the signature of object says that it takes everything
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        names |= {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
        if cls is CheckpointHook or not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
        if not _is_ours(cls):
            return None
    return names - {"self"}


def _is_ours(cls: object) -> bool:
    return isinstance(cls, type) and cls.__module__.startswith(_PACKAGE)


def _measured_channels(backbone: dict, path: str, device: str) -> tuple[int, ...] | None:
    """Return the channels of the feature maps, of others' backbones by a small image; None where that cannot be tried.

    On the meta device nothing is allocated or computed, but some backbones ask a tensor for its value.
    """
    cls = registered(MODELS, backbone)
    try:
        with torch.device(device), torch.no_grad(), torch.random.fork_rng(devices=[]):
            net = MODELS.build(dict(backbone))
            if isinstance(net, LocalViT):
                return tuple(net.out_channels)
            net.eval()
            return tuple(level.shape[1] for level in net(torch.zeros(1, 3, 128, 128)))
    except Exception as error:  # another package's model: whatever stops it here, the runner will say
        if isinstance(error, (TypeError, ValueError)) and _is_ours(cls):
            raise ConfigError(f"{path} {getattr(cls, '__name__', cls)}: {error}") from error
        return None
