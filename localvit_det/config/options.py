"""Options of a config: what their values mean, and which names at its top level nothing reads.

MMEngine's `DictAction` would split paths at their commas, turn classes named 1e3 or None into values, leave `{dicts}`
as texts, and store a misspelt name in silence.
"""

import ast
import inspect
import logging
import re
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner

from ..checkpoint.config_text import parse
from ..config_names import Typed, config_folder
from ..errors import ConfigError, did_you_mean
from .short_settings import SHORT, SHORTER
from .utils import parents_of, value_at

# Last words of keys whose value is a path, whatever it looks like.
_PATHS = {
    *("data_root", "ann_file", "work_dir", "load_from", "resume_from", "pretrained", "checkpoint", "proposal_file"),
    *("img", "img_path", "seg", "out_dir", "save_dir", "outfile_prefix", "out_file_path"),
    "augment",  # of whose names one is none
}
_WORDS = {"true": True, "false": False, "none": None, "null": None}
_NUMBER = re.compile(r"[+-]?(?:\d+|(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?|inf)$")
_CLOSING = {"[": "]", "(": ")", "{": "}"}
# Settings of ours that `load_config` applies, and nothing else does, each with the value that asks for nothing.
OF_LOADING = {
    **dict.fromkeys(("augment", "classes", "data_root", "image_size", "omit_hooks", "pretrained", "val_split")),
    **{"allow_pickle": True, "crowds_as_objects": False, "draw": False, "warm_start": None, "with_mask": True},
}
# Names that something reads, whether or not the config has them.
_READ = {
    *inspect.signature(Runner.__init__).parameters,
    *OF_LOADING,
    *("broken_images", "fit_warmup", "load_policy", "max_broken_images", "max_pixels", "non_finite", "pixel_range"),
    *("completed_with", "recognized", "started_with", "verbose"),
    *("sync_bn", "compile", "find_unused_parameters", "custom_imports", "vis_backends", "tta_model", "tta_pipeline"),
    *("runner_type", "strategy", "strategy_wrapper", "model_wrapper_cfg", "auto_resume"),
    *("activation_checkpointing", "efficient_conv_bn_eval", "test_pipeline"),
} - {"self", "cfg"}
_ONLY_EMBEDDED = {"test_pipeline"}  # read from files of weights; in a config it is a name like train_pipeline
_NOT_INHERITED = (
    "its parent has used its own value already, so this one changes nothing; set what the parent makes of it"
)
# Settings by what they are called elsewhere, without underscores.
_MEANT = {
    **dict.fromkeys(("epoch", "epochs", "maxepoch", "maxepochs", "numepochs"), "train_cfg.max_epochs"),
    **dict.fromkeys(("iters", "maxiter", "maxiters"), "train_cfg.max_iters"),
    "valinterval": "train_cfg.val_interval",
    **dict.fromkeys(("lr", "lr0", "learningrate", "baselr"), "optim_wrapper.optimizer.lr"),
    **dict.fromkeys(("wd", "weightdecay"), "optim_wrapper.optimizer.weight_decay"),
    "optimizer": "optim_wrapper.optimizer.type",
    **dict.fromkeys(("batch", "batchsize", "samplespergpu"), "train_dataloader.batch_size"),
    **dict.fromkeys(("workers", "numworkers", "workerspergpu"), "train_dataloader.num_workers"),
    **dict.fromkeys(("seed", "randomseed"), "randomness.seed"),
    "loginterval": "default_hooks.logger.interval",
    **dict.fromkeys(("saveinterval", "checkpointinterval"), "default_hooks.checkpoint.interval"),
    **dict.fromkeys(("class", "classnames", "names", "labels", "categories"), "classes"),
    **dict.fromkeys(("size", "imgsize", "imgsz", "imgscale", "inputsize"), "image_size"),
    "annfile": "train_dataloader.dataset.ann_file",
    **dict.fromkeys(("weights", "checkpoint", "loadfrom"), "load_from"),
    **dict.fromkeys(("output", "outdir", "outputdir", "workdir"), "work_dir"),
    **dict.fromkeys(("dataroot", "data", "root"), "data_root"),
    "trainpipeline": "train_dataloader.dataset.pipeline",
    **dict.fromkeys(("testpipeline", "valpipeline"), "val_dataloader.dataset.pipeline"),
}
# What to do about names that stand for no single key of a config.
_ADVICE = {
    **dict.fromkeys(
        ("device", "gpu", "gpus", "gpuids"),
        "give --device cpu, --device 0 or --device 0,1; without it a GPU is taken where there is one",
    ),
    "numclasses": "set classes=auto, or the names of the classes, which all heads follow",
    "amp": "give --amp",
}


def read_options(options: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with values in place of what was typed; see `config_names.HELP` for the rules.

    Args:
        options: Dotted keys and values; values that are not `Typed` are kept.
        config: Where the keys point into.

    Raises:
        ConfigError: A list, tuple or dict is not closed.
    """
    return {
        key: _read(key, str(value), value_at(config, key)) if isinstance(value, Typed) else value
        for key, value in options.items()
    }


def _read(key: str, text: str, present: object) -> Any:
    last = key.rpartition(".")[2]
    stripped = text.strip()
    if last in _PATHS:
        quoted = _quoted(stripped)
        return None if stripped == "None" else text if quoted is None else quoted
    words = last in ("classes", "CLASSES")  # names like 1e3 or None stay names
    if stripped[:1] in _CLOSING and _split(stripped) is None:
        raise ConfigError(
            f"The option {key}={text} does not close its brackets or quotes: correct them, or put quotes round a text "
            f"that begins so: {key}='\"{text}\"'."
        )
    is_list = isinstance(present, (list, tuple))
    parts = _split(stripped) or [stripped]
    if len(parts) > 1 and (is_list or words or all(_NUMBER.match(part.strip()) for part in parts)):
        values = [_element(key, part, words) for part in parts if part.strip()]
        return tuple(values) if isinstance(present, tuple) else values
    value = _element(key, stripped, words)
    return text if value == stripped else value


def _element(key: str, text: str, words: bool) -> Any:
    """Return one value without commas outside of brackets and quotes."""
    text = text.strip()
    quoted = _quoted(text)
    if quoted is not None:
        return quoted
    inside = _split(text[1:-1]) if text[:1] in _CLOSING and text.endswith(_CLOSING[text[0]]) else None
    if inside is not None:
        inside = [part for part in inside if part.strip()]
        if text[0] == "{":
            return dict(_pair(key, part, words) for part in inside)
        values = [_element(key, part, words) for part in inside]
        return tuple(values) if text[0] == "(" else values
    if words:
        return text
    if text.startswith("dict(") and text.endswith(")"):
        try:
            return parse(f"x = {text}")["x"]
        except ValueError:
            return text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _NUMBER.match(text):
        return float(text) if re.search(r"[.eEi]", text) else int(text)
    return text


def _pair(key: str, text: str, words: bool) -> tuple[Any, Any]:
    name, colon, value = text.partition(":")
    if text.lstrip()[:1] in ("'", '"'):  # a colon in the quotes is part of the name
        end = text.index(text.lstrip()[0], len(text) - len(text.lstrip()) + 1) + 1
        colon, name, value = text[end:].lstrip()[:1], text[:end], text[end:].lstrip()[1:]
    if colon != ":":
        raise ConfigError(f"The option {key} has '{text.strip()}' in braces: write {{name: value}}.")
    return _element(key, name, words), _element(key, value, words)


def _quoted(text: str) -> str | None:
    """Return what stands in the quotes, if the whole text is one quoted text."""
    if len(text) < 2 or text[0] not in "'\"" or text[-1] != text[0]:
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    return value if isinstance(value, str) else None


def _split(text: str) -> list[str] | None:
    """Return the parts between the commas that are in no brackets and no quotes; None where those do not close."""
    parts, start, open_, quote, begins = [], 0, [], "", True
    for index, char in enumerate(text):
        if quote:
            if char == quote and text[index - 1] != "\\":
                quote = ""
            continue
        if begins and char in "'\"":  # an apostrophe in a word opens nothing
            quote = char
        elif char in _CLOSING:
            open_.append(_CLOSING[char])
        elif char in _CLOSING.values():
            if not open_ or open_.pop() != char:
                return None
        elif char == "," and not open_:
            parts.append(text[start:index])
            start = index + 1
        begins = char in ",:" or char in _CLOSING or (begins and char.isspace())
    return None if open_ or quote else [*parts, text[start:]]


def unread_names(options: Mapping[str, Any], cfg: Config, data: bool = True) -> list[ConfigError]:
    """Return what options, and the files of a user's config, set at the top level though nothing reads it.

    A name that only the config's own file uses may be set by an option, since a user's code may read it; a warning says
    what it does not do.

    Args:
        options: Dotted keys and values.
        cfg: The config without them; only Python files that came with no package are looked into.
        data: Without it, for inference, what the files set is no more than a warning.
    """
    found = [mistake for key, value in options.items() if (mistake := _option_mistake(key, value, cfg))]
    file = Path(cfg.filename or "")
    if file.suffix == ".py" and not _is_installed(file):
        in_files = list(_file_mistakes(file, frozenset()))
        for mistake in () if data else in_files:
            _warn(str(mistake))
        found += in_files if data else []
    return found


def _option_mistake(key: str, value: object, cfg: Config) -> ConfigError | None:
    top = key.partition(".")[0]
    if top in _READ or key in SHORT:
        return None
    instead = _instead(key, value, SHORTER)
    if top not in cfg:
        hint = "" if instead else did_you_mean(top, {*cfg.keys(), *_READ})
        fix = instead or "correct its name, or write it into the config if code of yours reads it"
        return ConfigError(f"The option {key} sets {top}, which nothing reads{hint}: {fix}.")
    _warn(
        f"The option {key} sets {top}, which only the config's own file uses: what was made of it there stays as "
        f"it was; {instead or 'set that instead'}."
    )
    return None


def _file_mistakes(path: Path, used_by_children: Set[str]) -> Iterator[ConfigError]:
    """Yield what is wrong with the names that a file and its parents assign, and warn of those that may be meant.

    A name with the value that it has in a parent anyway, as MMDetection's own configs have them, is no mistake.

    Args:
        used_by_children: Names that files which build on this one use of it.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):  # reading the config reports it
        return
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    of_parents = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    if "_base_" not in _assigned(tree):  # it is whole, perhaps written by a run: leftovers of its parents stand there
        return
    parents = parents_of(path)
    known = used | used_by_children | (_READ - _ONLY_EMBEDDED)
    unread = {name: value for name, value in _assigned(tree).items() if not name.startswith("_") and name not in known}
    values, of_bases = (_values(path), list(map(_values, parents))) if unread else ({}, [])
    for name, value in unread.items():
        inherited = [base[name] for base in of_bases if name in base]
        if values.get(name) in inherited:
            continue
        instead = _instead(name, value)
        near = "" if name in _READ else did_you_mean(name, _READ, cutoff=0.85)
        if instead or near or inherited:
            fix = instead or "correct or remove it" if near or instead else _NOT_INHERITED
            yield ConfigError(f"The config {path} sets {name}, which nothing reads{near}: {fix}.")
        else:
            _warn(f"The config {path} sets {name}, which nothing in it uses, and this package does not read.")
    for parent in parents:
        if not _is_installed(parent):
            yield from _file_mistakes(parent, of_parents | used_by_children)


def _is_installed(path: Path) -> bool:
    """Whether a config came with a package: its authors' names are none of the user's."""
    path = path.resolve()
    return ".mim" in path.parts or path.is_relative_to(config_folder().resolve())


def _assigned(tree: ast.Module) -> dict[str, object]:
    """Return the names that are assigned at the top level; their values where these are literals, else an ellipsis."""
    found: dict[str, object] = {}
    for node in tree.body:
        targets: list[ast.expr] = []
        value: ast.expr | None = None
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign):
            targets, value = [node.target], node.value
        elif isinstance(node, (ast.AugAssign, ast.For)):
            targets = [node.target]
        for target in targets:
            if isinstance(target, ast.Name):
                try:
                    found[target.id] = ast.literal_eval(value) if value else ...
                except (ValueError, TypeError):
                    found[target.id] = ...
    return found


def _values(path: Path) -> Mapping[str, Any]:
    """Return what a config sets, by itself or by its parents; nothing where it cannot be read, as is reported then."""
    try:
        return Config.fromfile(path)
    except Exception:
        return {}


def _warn(sentence: str) -> None:
    print_log(sentence, "current", logging.WARNING)


def _instead(key: str, value: object, shorter: Mapping[str, str] = {}) -> str | None:
    """Return what to do where a setting has another name here."""
    if key.startswith("optimizer."):
        return f"set optim_wrapper.{key}={value}"
    plain = key.replace("_", "").replace("-", "").casefold()
    if plain not in _MEANT:
        return _ADVICE.get(plain)
    shown = f"={value}" if isinstance(value, (str, int, float)) else ""
    meant = _MEANT[plain]
    return f"set {shorter.get(meant, meant)}{shown}"
