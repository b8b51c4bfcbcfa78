"""Optional sister libraries of MMDetection: imported, or named with the command that installs them."""

import importlib

from ..errors import RequirementError, first_line
from .requirements import is_onedl

# Their packages on the index, and the extra of this package that brings them with all that they forget to ask for
# (mmseg 1.2.2 imports ftfy and regex, but does not require them).
EXTRAS = {"mmseg": ("mmsegmentation", "seg"), "mmpretrain": ("mmpretrain", "pretrain")}


def distribution(module: str) -> tuple[str, str]:
    """The package on the index and the extra of this package that bring a key of `EXTRAS` here; OneDL has its own."""
    prefix = "onedl-" if is_onedl() else ""
    package, extra = EXTRAS[module]
    return prefix + package, prefix + extra


def install() -> None:
    """Lets MMEngine look for `mmseg::` configs under the name of OneDL's distribution, where that is the stack."""
    from mmengine.config import utils  # only now: whether MMEngine fits is checked before

    utils.MODULE2PACKAGE.update({module: distribution(module)[0] for module in EXTRAS})


def require(module: str) -> None:
    """Imports a library.

    Args:
        module: Key of `EXTRAS`.

    Raises:
        RequirementError: It or something that it needs is missing, or does not fit what is installed.
    """
    package, extra = distribution(module)
    command = f"run `pip install '.[{extra}]'` in the folder of localvit_det"
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            raise RequirementError(f"{package} is not installed, which this config needs: {command}.") from error
        raise RequirementError(
            f"{package} is installed, but {error.name}, which it needs, is not: run `pip install {error.name}`, or "
            f"{command}."
        ) from error
    except (ImportError, AssertionError) as error:
        raise RequirementError(f"{package} cannot be imported ({first_line(error)}): {command}.") from error


def require_named(message: str) -> None:
    """Imports the library that MMEngine's message says is not installed; nothing where it names none of them.

    Raises:
        RequirementError: As of :func:`require`.
    """
    for module, (package, _) in EXTRAS.items():
        if message.startswith(f"{package} is not installed"):
            require(module)
