"""Installation; `pip install .[lite]` on a machine without a compiled MMCV."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "localvit_det/__init__.py").read_text())[1]

OPENMMLAB = ["mmengine>=0.10.7,<1.0", "mmdet>=3.3,<3.4"]


class BuildWithConfigs(build_py):
    """Puts the configs where OpenMMLab's packages have theirs, and `mim` and MMEngine look for them."""

    def run(self) -> None:
        """Builds; an editable installation reads the checkout's own configs."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "localvit_det/.mim"
        shutil.rmtree(target, ignore_errors=True)  # of an earlier build
        shutil.copytree(here / "configs", target / "configs", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy2(here / "model-index.yml", target)
        (target / "tools").mkdir()
        for name in ("_process.py", "train.py", "test.py"):  # what `mim train` and `mim test` run
            shutil.copy2(here / "tools" / name, target / "tools")


setup(
    name="localvit_det",
    version=version,
    description="Local vision transformers (Shuffle, Glance-and-Gaze, DWNet, MSG, Twins) as backbones for MMDetection",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["localvit", "localvit.*", "localvit_det", "localvit_det.*"]),
    package_data={"localvit_det": ["checkpoint/*.json"]},
    entry_points={"console_scripts": ["localvit = localvit.__main__:main"]},
    cmdclass={"build_py": BuildWithConfigs},
    install_requires=[
        "torch>=2.6,<2.16",
        "torchvision>=0.21,<0.30",
        "einops>=0.7",
        "packaging",
        "numpy>=1.26",
        # MMEngine resolves `mmdet::` configs with pkg_resources, which later releases of setuptools lack.
        "setuptools<82",
    ],
    extras_require={
        # MMDetection, mmengine and mmcv stand here only: OneDL's fork has other names for the same folders, and so has
        # mmcv without and with compiled operators. Naming one above would overwrite another that is there.
        # Without any, importing the package says which command mends it.
        "lite": [*OPENMMLAB, "mmcv-lite>=2.1,<2.2"],
        "mmdet": OPENMMLAB,  # next to a compiled mmcv
        "onedl": ["onedl-mmengine>=0.10.8,<1.0", "onedl-mmcv>=2.3,<2.4", "onedl-mmdetection>=3.5,<3.6"],
        # Of --log.
        "tensorboard": ["tensorboard>=2.16"],
        "wandb": ["wandb>=0.17"],
        "mlflow": ["mlflow>=2.12"],
        "test": ["pytest>=8", "pytest-xdist>=3.6"],
        # Of these, mmsegmentation imports the last two without requiring them.
        "seg": ["mmsegmentation>=1.2.2,<1.3", "ftfy", "regex"],
        "onedl-seg": ["onedl-mmsegmentation>=1.4,<1.5", "ftfy", "regex"],
        "pretrain": ["mmpretrain>=1.2,<1.3"],
        "onedl-pretrain": ["onedl-mmpretrain>=1.3,<1.4"],
        "convert": ["supervision>=0.31.2,<0.32"],  # reads YOLO's and Pascal VOC's labels
        "fast-eval": ["faster-coco-eval>=1.8,<2"],
        "export": ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20", "openvino>=2025.0"],
        "int8": ["nncf>=3.0,<4", "openvino>=2025.0"],
        "dev": ["pytest>=8", "pytest-xdist>=3.6", "ruff", "pre-commit", "faster-coco-eval>=1.8,<2"],
    },
)
