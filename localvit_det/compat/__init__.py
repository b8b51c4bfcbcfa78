"""What stock MMDetection 3.3 needs to run on today's PyTorch; each file mends one defect.

Nothing here imports `mmdet.models`: the operators have to be in place before it does. How checkpoints are read stands
in :mod:`localvit_det.checkpoint`.
"""


def apply() -> None:
    """Checks the installed packages, then puts operators and safe checkpoint loading in place.

    Calling it again changes nothing.

    Raises:
        RequirementError: a package is missing, too old, too new or built for another PyTorch.
    """
    from .requirements import check_requirements

    check_requirements()

    # Imported only now: these modules need the packages that were just checked.
    from . import config_text, data_files, extras, local_files, mmcv_ops, panoptic, roi_align_layout

    config_text.install()
    data_files.install()
    extras.install()
    local_files.install()
    mmcv_ops.install()
    roi_align_layout.install()
    panoptic.install()

    from ..checkpoint import entrances

    entrances.install()
