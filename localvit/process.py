"""Settings of a process that must stand before PyTorch starts, and modules of the library that do without PyTorch.

LOCALVIT_PROCESS=plain in the environment leaves the settings as they are. Importing `localvit_det` checks the
installation and registers all it has, which takes seconds: arguments, names of configs and missing packages are looked
at before that.
"""

import ctypes
import errno
import importlib.util
import io
import logging
import os
import select
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

# At the end of every parallel region PyTorch's threads wait for each other. GNU OpenMP lets them spin for that, by
# default for milliseconds: where cores are shared, often on the very core that the awaited thread needs. With one other
# busy process on two cores a network then took five times as long instead of one and a half times.
_SPIN_COUNT = "10000"
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # numbers of mallopt(3)
_LARGEST = 2**31 - 1


def share_cores() -> None:
    """Let threads that wait give way soon, unless the environment says how they wait."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT


def keep_memory() -> None:
    """Let the process keep freed memory, unless the environment configures the allocator.

    By default C's allocator returns large blocks to Linux as soon as they are freed, and Linux clears every page of
    the next one. Data workers inherit the setting. It costs what lies between freed blocks.
    """
    configured = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for name in os.environ)
    if configured or sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _LARGEST)


class _LossyFile(io.FileIO):
    """A descriptor that may be written to after its reader has gone."""

    def write(self, data: Any, /) -> int:  # all that has a buffer, as of the class above
        """Write what can be written; after an error all goes to the null device."""
        try:
            while (written := super().write(data)) is None:  # full, and set not to block, as other programs may do
                select.select([], [self], [])
            return written
        except OSError as error:  # EIO of a closed terminal, EPIPE of a pipe without a reader, ENOSPC
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # C libraries and child processes write there, too
            os.close(nowhere)
            if error.errno == errno.ENOSPC and self.fileno() != 2:
                sys.stderr.write("localvit: the disk is full, and what is printed from here on is lost\n")
            return len(data)


def survive_closed_streams() -> None:
    """Let no print, log line or progress bar raise because there is no reader: a notice never ends the work.

    Characters that the stream cannot encode are written as escapes.
    A stream that a test or a notebook has put in the place of the process's own is left alone.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:  # closed before the start: the next file that is opened would get its number
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != descriptor:
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
        stream = getattr(sys, name)
        if name == "stdin" or stream is not getattr(sys, f"__{name}__"):
            continue
        if isinstance(getattr(getattr(stream, "buffer", None), "raw", None), _LossyFile):
            continue
        if stream is not None:
            stream.flush()
        encoding, errors = (stream.encoding, stream.errors) if stream is not None else ("utf-8", "strict")
        errors = "backslashreplace" if errors == "strict" else errors
        raw = _LossyFile(descriptor, "w", closefd=False)
        lossy = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding, errors, line_buffering=name == "stderr" or raw.isatty()
        )
        setattr(sys, name, lossy)
        setattr(sys, f"__{name}__", lossy)
    logging.raiseExceptions = False  # a log file on a full disk: one traceback a line otherwise


def print_startup(command: str) -> None:
    """Say that something is going on: importing all that a training needs takes seconds, on busy machines a minute."""
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        sys.stderr.write(f"localvit {command}: importing PyTorch and MMDetection\n")
        sys.stderr.flush()


def launch(count: int, command: str, argv: Sequence[str]) -> NoReturn:
    """Run a command in several processes instead of this one, as `torchrun` does."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    own = ["-m", "localvit", command, *argv, "--launcher", "pytorch"]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *launcher, *own])


def ignore_warnings() -> None:
    """Ignore what MMEngine and MMDetection do in an old way, which no user can fix; some comes dozens of times."""
    for message in ("pkg_resources is deprecated", r"torch\.meshgrid: in an upcoming", r"`torch\.cuda\.amp\."):
        warnings.filterwarnings("ignore", message=message)


def set_up() -> None:
    """Apply all settings, unless the environment says to leave the process alone."""
    ignore_warnings()
    survive_closed_streams()
    if os.environ.get("LOCALVIT_PROCESS") != "plain":
        share_cores()
        keep_memory()


_LIBRARY = "localvit_det"
_LIGHT = (_LIBRARY, "localvit.arguments", "localvit.commands")  # their modules hold what they took from the library


@contextmanager
def library_not_run() -> Iterator[None]:
    """Let modules of the library be imported while the package itself is not run.

    Nothing of it stays: what is imported behind the block is the library as everyone gets it. Where that is imported
    already, nothing is done.
    """
    spec = importlib.util.find_spec(_LIBRARY)
    if _LIBRARY in sys.modules or spec is None:
        yield
        return
    sys.modules[_LIBRARY] = importlib.util.module_from_spec(spec)  # it knows where its modules are
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name in _LIGHT or name.startswith(tuple(f"{x}." for x in _LIGHT))]:
            del sys.modules[name]
