"""The quick tests and ten training iterations of the demo on versions of Python, PyTorch and MMDetection: `nox`.

A session gets an environment of its own, with gigabytes of libraries: run single ones, such as
`nox -s "stack-3.12(library='mmdet', torch='2.6')"`. What they came to is kept in docs/stacks.md.
"""

from pathlib import Path

import nox

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
TORCHES = ("2.6", "2.8", "2.10", "2.12", "2.14", "2.15")
# Extras of pyproject.toml; the first is the library itself. All the others only let more tests run.
MORE = ("fast-eval", "convert", "export", "tensorboard", "wandb", "mlflow", "test")
EXTRAS = {
    "mmdet": ("lite", "seg", "pretrain", *MORE),
    "onedl": ("onedl", "onedl-seg", "onedl-pretrain", *MORE),
}
COMPILED = {"mmdet": "mmcv==2.1.0", "onedl": "onedl-mmcv==2.3.6"}
DEMO = ("tools/train.py", "configs/mask_rcnn_shuffle_nano_shapes.py", "--cfg-options", "train_cfg.max_epochs=1")
nox.options.stop_on_first_error = False


def install(session: nox.Session, torch: str, library: str, compiled: bool) -> None:
    """Install a PyTorch and the package, with the other versions of constraints.txt."""
    lines = Path("constraints.txt").read_text(encoding="utf-8").splitlines()
    constraints = Path(session.create_tmp()) / "constraints.txt"
    kept = [line for line in lines if line.partition("==")[0] not in ("torch", "torchvision")]
    constraints.write_text("\n".join(kept), encoding="utf-8")
    pinned = ("-c", str(constraints.absolute()))
    session.install(*pinned, f"torch=={torch}.*", "torchvision", "setuptools")
    extras = EXTRAS[library]
    if compiled:  # not a wheel of the index, which would have no operators
        session.install(*pinned, "wheel", "ninja", "packaging", "psutil")
        package = COMPILED[library].partition("==")[0]
        session.install(*pinned, "--no-build-isolation", "--no-binary", package, COMPILED[library])
        extras = ("mmdet", *extras[1:])
    session.install(*pinned, "-e", f".[{','.join(extras)}]")


@nox.session(python=PYTHONS)
@nox.parametrize("torch", TORCHES)
@nox.parametrize("library", tuple(EXTRAS))
def stack(session: nox.Session, torch: str, library: str, compiled: bool = False) -> None:
    """Try a combination; the operators of mmcv come from torchvision and PyTorch."""
    install(session, torch, library, compiled)
    work_dir = str(Path(session.create_tmp()).absolute() / "demo")
    session.run("python", *DEMO, "train_dataloader.dataset.indices=80", "--work-dir", work_dir)
    session.run("python", "-m", "pytest", "-q", "-m", "not slow", *session.posargs)


@nox.session(python="3.11")
@nox.parametrize("torch", ("2.8", "2.14"))
@nox.parametrize("library", tuple(EXTRAS))
def compiled(session: nox.Session, torch: str, library: str) -> None:
    """Try a combination with compiled operators."""
    stack.func(session, torch, library, compiled=True)
