"""Whether a distributed run was started as one, on a machine that can carry it."""

import os

import torch
from mmengine.config import Config
from mmengine.device import is_mlu_available, is_musa_available, is_npu_available

from ..errors import ConfigError

# Of each launcher: the variable that every process of it has, the one that tells how many share a machine, and what
# starts it.
_LAUNCHERS = {
    "pytorch": ("RANK", "LOCAL_WORLD_SIZE", "tools/dist_train.sh or tools/dist_test.sh"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS_PER_NODE", "tools/slurm_train.sh or srun"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", "mpirun"),
}


def check_processes(cfg: Config) -> None:
    """Checks that the processes of a distributed run find each other, and a GPU each where there are any.

    Raises:
        ConfigError: They were not started by their launcher, or there are fewer GPUs.
    """
    launcher = cfg.get("launcher", "none")
    if launcher not in _LAUNCHERS:
        return
    sign, together, starter = _LAUNCHERS[launcher]
    if sign not in os.environ:
        raise ConfigError(
            f"--launcher {launcher} is for processes that {starter} starts (the variable {sign} is not set): "
            "use that, or leave --launcher out."
        )
    if is_npu_available() or is_mlu_available() or is_musa_available():
        return
    gpus = torch.cuda.device_count()
    if not gpus and launcher == "pytorch":
        return  # on CPUs, by gloo
    if not gpus:
        raise ConfigError(
            f"--launcher {launcher} needs GPUs, and PyTorch finds none here: start the processes with "
            "tools/dist_train.sh or tools/dist_test.sh, which also work on CPUs."
        )
    processes = int(os.environ.get(together, 1))
    if processes > gpus:
        raise ConfigError(
            f"{processes} processes were started on this machine, and PyTorch finds only {gpus} GPU(s): start {gpus}."
        )
