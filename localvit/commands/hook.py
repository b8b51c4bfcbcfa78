"""Lets `import mmdet` import localvit_det in every process of this environment: `localvit hook on`.

Without compiled operators of MMCV, `from mmdet.apis import DetInferencer` needs `import localvit_det` before it. With
the hook it needs nothing. What it touches: one file, localvit_hook.pth, in this environment's site-packages, which
Python reads when it starts; `localvit hook off` removes it. It costs a process that does not import mmdet about a
millisecond.
"""

import argparse
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

# A line of such a file has to begin with `import`. It says nothing where the package is gone: pip does not know of it.
LINE = r"import sys; exec('try:\n from localvit.hook import install\n install()\nexcept ImportError:\n pass')" + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the arguments, writes or removes the file, says how things are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["on", "off", "status"], nargs="?", default="status")
    what = parser.parse_args(argv).what
    file = hook_file()
    try:
        if what == "on":
            file.write_text(LINE)
        elif what == "off":
            file.unlink(missing_ok=True)
    except OSError as error:
        sys.stderr.write(
            f"error: {file} cannot be changed ({error.strerror}): use an environment of your own, or put "
            "`import localvit_det` at the head of your script.\n"
        )
        raise SystemExit(1) from None
    state = "on" if file.exists() else "off"
    sys.stdout.write(f"The hook is {state} ({file}).\n")


def hook_file() -> Path:
    """Where the file of this environment is, or would be."""
    return Path(sysconfig.get_path("purelib")) / "localvit_hook.pth"
