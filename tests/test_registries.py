"""What `import localvit_det` changes in MMEngine, MMCV and MMDetection, and who owns which names in registries."""

import json
import subprocess
import sys

import pytest

# In a process that has not imported the package. MMDetection is imported whole before; where MMCV has no operators it
# takes any for that.
CODE = """
import importlib.machinery, importlib.util, inspect, json, sys, types
from collections.abc import MutableMapping

if importlib.util.find_spec("mmcv._ext") is None:
    class AnyOperator(types.ModuleType):
        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return lambda *args, **settings: None
    sys.modules["mmcv._ext"] = AnyOperator("mmcv._ext")
import mmcv, mmengine.registry, mmengine.infer, mmdet.registry
from mmdet.utils import register_all_modules
from mmengine.registry import Registry
register_all_modules(init_default_scope=False)
if isinstance(sys.modules["mmcv._ext"], types.ModuleType) and sys.modules["mmcv._ext"].__spec__ is None:
    del sys.modules["mmcv._ext"]
    vars(mmcv).pop("_ext", None)


@mmengine.registry.HOOKS.register_module()
class ProgressBarHook: "the user's, before"


@mmengine.registry.MODELS.register_module()
class LN2d: "the user's, before"


def places():
    "Yield (name, mapping) of everything that the libraries own: modules, classes, registries and tables."
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] not in ("mmengine", "mmcv", "mmdet"):
            continue
        yield name, module, vars(module)
        for key, value in list(vars(module).items()):
            if isinstance(value, Registry):
                yield f"{value.scope} {value.name}", value.module_dict, value.module_dict
            elif isinstance(value, dict) and not key.startswith("__"):
                yield f"{name}.{key}", value, value
            elif inspect.isclass(value) and value.__module__ == name:
                yield f"{name}.{key}", value, vars(value)


before = {name: (owner, dict(there)) for name, owner, there in places()}
import localvit_det
from localvit_det import patches

documented = {(id(owner), key) for rows in patches._applied.values() for owner, key, _ in rows}
ours = lambda value: str(getattr(value, "__module__", "")).startswith("localvit_det")
changed, added = [], {}
for name, owner, there in places():
    if name not in before:
        continue
    for key, value in list(there.items()):
        old = before[name][1].get(key, before)
        if old is value or (id(owner), key) in documented or key.startswith("__"):
            continue
        if old is not before:
            if not isinstance(value, (bool, int)):
                changed.append(f"{name}: {key}")
        elif " " in name and ours(value):
            added.setdefault(name, []).append(key)
        elif ours(value):
            changed.append(f"{name}: {key}")
    changed += [f"{name}: {key} is gone" for key in before[name][1] if key not in there]
# A name of MMDetection's that hides one of the root is a takeover as well.
hidden = []
for registry in {id(one): one for one in vars(mmdet.registry).values() if isinstance(one, Registry)}.values():
    root = before.get(f"mmengine {registry.parent.name}", (None, {}))[1] if registry.parent else {}
    for key, value in registry.module_dict.items():
        if ours(value) and key in root and (id(registry.module_dict), key) not in documented:
            hidden.append(f"{registry.name}: {key}")


@mmengine.registry.HOOKS.register_module()
class EarlyStopHook: "the user's, after"


for kind, names in (("HOOKS", ("DrawingHook", "CurvesHook")), ("VISBACKENDS", ("WandbBackend",))):
    for name in names:
        getattr(mmengine.registry, kind).register_module(name=name, module=EarlyStopHook)
found = {}
for scope in ("mmdet", "mmengine"):
    with mmengine.registry.HOOKS.switch_scope_and_registry(scope) as registry:
        found[scope] = {n: registry.get(n).__module__.partition(".")[0] for n in ("ProgressBarHook", "EarlyStopHook")}
with mmengine.registry.MODELS.switch_scope_and_registry("mmdet") as registry:
    found["mmdet"]["LN2d"] = registry.get("LN2d").__module__.partition(".")[0]
print(json.dumps({"changed": sorted(set(changed)), "added": added, "hidden": hidden, "found": found}))
"""


@pytest.fixture(scope="module")
def seen() -> dict:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_nothing_is_changed_but_what_the_table_says(seen):
    """A name that is replaced in a module, a class, a registry or a table of another library needs a row."""
    assert seen["changed"] == []


def test_no_name_of_the_root_is_hidden_but_what_the_table_says(seen):
    assert [name for name in seen["hidden"] if name not in YIELDING] == []


# The user's of this test, which are ours in MMDetection's scope.
YIELDING = ("hook: ProgressBarHook", "model: LN2d")


def test_the_root_has_networks_and_the_runner_alone(seen):
    from localvit_det.backbones import __all__ as networks

    root = {name: keys for name, keys in seen["added"].items() if name.startswith("mmengine ")}
    assert root.keys() == {"mmengine model", "mmengine runner"}
    assert {*root["mmengine model"]} == {*networks} - {"LocalViT", "AttentionViT"}
    assert {*root["mmengine runner"]} == {"ReliableRunner"}


def test_names_in_the_root_are_the_users_before_and_after_the_import(seen):
    assert seen["found"]["mmengine"] == {"ProgressBarHook": "__main__", "EarlyStopHook": "__main__"}


def test_names_in_mmdetections_scope_are_ours(seen):
    assert {*seen["found"]["mmdet"].values()} == {"localvit_det"}
