"""Keys of what the runner builds beside the model: hooks, loops, loaders, samplers and the optimizer."""

import inspect
from collections.abc import Iterator

from mmdet.registry import DATA_SAMPLERS, HOOKS, LOOPS, OPTIMIZERS
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import Registry
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ..config.load import RUNNER
from ..config.parts import registered
from ..errors import ConfigError, did_you_mean

_RUNNERS = (None, "Runner", "mmengine.Runner", RUNNER)  # another one may read more
_CONSTRUCTORS = (None, "DefaultOptimWrapperConstructor", "BackboneConstructor", "LayerDecayConstructor")  # likewise
_OF_LOADERS = {
    *("dataset", "sampler", "batch_sampler", "worker_init_fn", "collate_fn", "num_batch_per_epoch"),
    "disable_subprocess_warning",
}
_OF_ALL = {"type", "_scope_", "_delete_"}

Part = tuple[str, dict, str, set[str]]  # dotted path, config, name of what it makes, keys that this takes


def check_built_keys(cfg: Config, train: bool) -> None:
    """Checks keys that the runner would break on: some when it is built, some when the first checkpoint is saved.

    What a class with `**kwargs` of others makes of a key is not known, and nothing is said.

    Args:
        train: As of `check_config`.

    Raises:
        ConfigError: A key is not taken, or a hook has no type.
    """
    if cfg.get("runner_type") not in _RUNNERS:
        return
    for path, node, name, taken in _parts(cfg, train):
        unknown = [str(key) for key in node if key not in taken | _OF_ALL]
        if unknown:
            hints = ", ".join(f"{key}{did_you_mean(key, taken)}" for key in unknown)
            raise ConfigError(f"{path} has keys that {name} does not take: {hints}; correct or remove them.")


def _parts(cfg: Config, train: bool) -> Iterator[Part]:
    yield from _hooks(cfg)
    for split in ("train", "val") if train else ("test",):
        loader, loop = cfg.get(f"{split}_dataloader"), cfg.get(f"{split}_cfg")
        if isinstance(loader, dict):
            yield f"{split}_dataloader", loader, "a dataloader", (_arguments(DataLoader) or set()) | _OF_LOADERS
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
    # Without a number: `keep_hooks` may have put others before it.
    for path, hook in [*named, *(("custom_hooks", hook) for hook in cfg.get("custom_hooks") or [])]:
        if isinstance(hook, dict) and "type" not in hook:
            hint = did_you_mean(path, [one for one, _ in named if one != path])
            raise ConfigError(f"{path} has a hook without a type{hint}: correct its name, or give it a type.")
        for _, node, name, taken in _part(HOOKS, path, hook):
            more = {"every_minutes"} if cfg.get("runner_type") == RUNNER and name == "CheckpointHook" else set()
            yield path, node, name, taken | {"priority"} | more


def _part(registry: Registry, path: str, node: object) -> Iterator[Part]:
    if isinstance(node, dict) and isinstance(cls := registered(registry, node), type):
        taken = _arguments(cls)
        if taken is not None:
            yield path, node, cls.__name__, taken


def _arguments(cls: type) -> set[str] | None:
    """What a class takes; None where it hands on what it does not know."""
    constructor = next(vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base))
    if constructor is object.__init__:  # whose signature says that it takes everything
        return set()
    parameters = inspect.signature(constructor).parameters
    if not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return set(parameters) - {"self"}
    if cls is CheckpointHook:  # hands it on to this, at the end of the first epoch
        return {*parameters, *inspect.signature(Runner.save_checkpoint).parameters} - {"self", "kwargs"}
    return None
