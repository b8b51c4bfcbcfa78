"""Check the installed packages, and name the command that installs what is missing or does not fit.

MMDetection itself only raises bare assertions, and some mismatches surface as C++ symbols.
"""

import importlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass

from packaging.version import Version

from .errors import RequirementError, first_line


@dataclass(frozen=True)
class Requirement:
    """A module with the versions it may have: `at_least` <= version < `below`."""

    module: str
    at_least: str
    below: str | None
    install: str
    uninstall: str = ""

    @property
    def versions(self) -> str:
        """The accepted versions, as pip writes them."""
        return f">={self.at_least}" + (f",<{self.below}" if self.below else "")

    @property
    def replace(self) -> str:
        """The command that puts a fitting version in place of an unfitting one."""
        return f"{self.uninstall} && {self.install}" if self.uninstall else self.install


TORCH = Requirement("torch", "2.6", None, 'pip install --upgrade "torch>=2.6" torchvision')
# Distributions that own the same folder: installing one over the other mixes their files.
_NO_MMENGINE = "pip uninstall -y mmengine onedl-mmengine"
_NO_MMCV = "pip uninstall -y mmcv mmcv-lite onedl-mmcv"
_NO_MMDET = "pip uninstall -y mmdet onedl-mmdetection"

# In this order: mmcv and mmengine need torch, and importing mmdet asserts versions of the two.
OPENMMLAB = (
    TORCH,
    Requirement("mmengine", "0.10.7", "1.0.0", "pip install mmengine==0.10.7", _NO_MMENGINE),
    Requirement("mmcv", "2.0.0", "2.2.0", "pip install mmcv-lite==2.1.0", _NO_MMCV),
    Requirement("mmdet", "3.3.0", "3.4.0", "pip install mmdet==3.3.0", _NO_MMDET),
)
# The maintained fork: other distributions with the same modules. Its mmcv has operators only where it was built
# next to torch (--no-build-isolation).
ONEDL = (
    TORCH,
    Requirement("mmengine", "0.10.8", "1.0.0", "pip install onedl-mmengine==0.10.12", _NO_MMENGINE),
    Requirement("mmcv", "2.3.0", "2.4.0", "pip install onedl-mmcv==2.3.6", _NO_MMCV),
    Requirement("mmdet", "3.5.0", "3.6.0", "pip install onedl-mmdetection==3.5.1", _NO_MMDET),
)


def is_onedl() -> bool:
    """Whether the installed MMDetection is the fork."""
    return bool(list(importlib.metadata.Distribution.discover(name="onedl-mmdetection")))


def requirements() -> tuple[Requirement, ...]:
    """Return what the installed MMDetection, or its fork, needs."""
    return ONEDL if is_onedl() else OPENMMLAB


def check_requirements() -> None:
    """Check every package that `localvit_det` depends on; a RequirementError names the command to run.

    torchvision is needed only where mmcv has no compiled operators: MMEngine, mmcv and MMDetection import it in rare
    cases only.
    """
    for requirement in requirements():
        _check(requirement)
    if not has_compiled_operators():
        _check_torchvision()


def check_networks() -> None:
    """Check the two packages that the networks alone depend on, PyTorch and MMEngine, in the same way."""
    for requirement in requirements():
        if requirement.module in ("torch", "mmengine"):
            _check(requirement)


def check_installed() -> None:
    """Raise RequirementError where a package is missing, without importing one, which takes seconds."""
    for requirement in requirements():
        if importlib.util.find_spec(requirement.module) is None:
            raise RequirementError(f"{requirement.module} is not installed: run `{requirement.install}`.")


def require_package(module: str, purpose: str, package: str = "") -> None:
    """Raise RequirementError where a module that is needed for one thing only is missing, without importing it.

    Args:
        purpose: What needs it, for the sentence.
        package: What pip installs, if that has another name.
    """
    if importlib.util.find_spec(module) is None:
        package = package or module
        raise RequirementError(f"{purpose} needs {package}, which is not installed: run `pip install {package}`.")


def has_compiled_operators() -> bool:
    """Whether mmcv has compiled operators (not `ops.mmcv_ops`); RequirementError if they are for another PyTorch."""
    spec = importlib.util.find_spec("mmcv._ext")
    if spec is None or spec.loader is None:
        return False
    try:
        importlib.import_module("mmcv._ext")
    except ImportError as error:
        torch_version = importlib.import_module("torch").__version__
        (mmcv,) = (requirement for requirement in requirements() if requirement.module == "mmcv")
        raise RequirementError(
            f"The compiled operators of mmcv do not load with torch {torch_version} ({first_line(error)}): "
            f"build mmcv again for this torch, or use the one without operators by `{mmcv.replace}`."
        ) from error
    return True


def _check(requirement: Requirement) -> None:
    name = requirement.module
    try:
        version = Version(importlib.import_module(name).__version__)
    except (ImportError, AssertionError, OSError, RuntimeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise RequirementError(f"{name} is not installed: run `{requirement.install}`.") from error
        raise RequirementError(
            f"{name} is installed but cannot be imported ({first_line(error)}): run `{requirement.replace}`."
        ) from error
    # Release numbers only, so that a vendor's "2.6.0a0+local" counts as 2.6.0.
    too_old = version.release < Version(requirement.at_least).release
    too_new = requirement.below is not None and version.release >= Version(requirement.below).release
    if too_old or too_new:
        raise RequirementError(
            f"{name} {version} is too {'old' if too_old else 'new'} (localvit_det needs {name}{requirement.versions}): "
            f"run `{requirement.replace}`."
        )


def _check_torchvision() -> None:
    import torch

    try:
        import torchvision

        # Calling an operator is the one test that also finds a torchvision without its C++ library.
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise RequirementError(
            "torchvision is not installed, and mmcv has no compiled operators to do without it: run "
            "`pip install torchvision`."
        ) from error
    except (AttributeError, ImportError, OSError, RuntimeError) as error:
        raise RequirementError(
            f"The operators of torchvision do not load with torch {torch.__version__} ({first_line(error)}): "
            "run `pip install --force-reinstall torch torchvision` to get two that match."
        ) from error


# Optional libraries: their packages on the index, and the extra of this package that installs them with all that they
# forget to require (mmseg 1.2.2 imports ftfy and regex).
EXTRAS = {
    "mmseg": ("mmsegmentation", "seg"),
    "mmpretrain": ("mmpretrain", "pretrain"),
    "timm": ("timm", "timm"),
    "huggingface_hub": ("huggingface_hub", "hub"),
}


def distribution(module: str) -> tuple[str, str]:
    """Return the package on the index and our extra that install a key of `EXTRAS`; OneDL has its own."""
    package, extra = EXTRAS[module]
    prefix = "onedl-" if package.startswith("mm") and is_onedl() else ""
    return prefix + package, prefix + extra


def require(module: str) -> None:
    """Import an optional library, a key of `EXTRAS`; raise RequirementError where it is missing or does not fit."""
    package, extra = distribution(module)
    command = f"run `pip install '.[{extra}]'` in the folder of localvit_det"
    try:
        importlib.import_module(module)
    except (ImportError, AssertionError) as error:
        what = f"cannot be imported ({first_line(error)})"
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            what = "is not installed, and needed here"
        elif isinstance(error, ModuleNotFoundError):
            what = f"is installed, but {error.name}, which it needs, is not"
            command = f"run `pip install {error.name}`, or {command}"
        raise RequirementError(f"{package} {what}: {command}.") from error


def require_named(message: str) -> None:
    """Import the optional library that MMEngine's message names as not installed, as :func:`require` does, if any."""
    for module, (package, _) in EXTRAS.items():
        if message.startswith(f"{package} is not installed"):
            require(module)


def has_mmdetection() -> bool:
    """Whether MMDetection and mmcv are installed, in whatever version."""
    return all(importlib.util.find_spec(name) is not None for name in ("mmdet", "mmcv"))
