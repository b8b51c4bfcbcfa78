"""tools/slurm_train.sh, with programs that stand for SLURM's."""

import os
import subprocess
from pathlib import Path

import pytest
from conftest import REPOSITORY

FAKE = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >> "$FAKE_LOG"
codes=($FAKE_CODES)
exit "${codes[$(grep -c "^srun" "$FAKE_LOG") - 1]:-0}"
"""


def submit(tmp_path: Path, *options: str, codes: str = "0", **environment: str) -> tuple[int, list[str]]:
    """Runs the script; its exit code, and what it has started."""
    for name in ("srun", "scontrol"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(FAKE if name == "srun" else FAKE.replace("exit ", "exit 0 # "))
        program.chmod(0o755)
    log = tmp_path / "log.txt"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    environment = {**kept, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", **environment}
    environment |= {"FAKE_LOG": str(log), "FAKE_CODES": codes}
    command = ["bash", str(REPOSITORY / "tools/slurm_train.sh"), "gpu", "my job", "config.py", "work dir", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    return done.returncode, log.read_text().splitlines()


def test_signal_comes_in_time(tmp_path):
    code, (line,) = submit(tmp_path, "--amp", GPUS="2")
    assert code == 0
    assert "-p gpu --job-name=my job --gres=gpu:2 --ntasks=2 " in line
    assert " --kill-on-bad-exit=1 --signal=USR1@120 " in line
    assert line.endswith("train.py config.py --work-dir work dir --launcher slurm --amp")


def test_signal_is_a_setting(tmp_path):
    assert " --signal=USR1@30 " in submit(tmp_path, SIGNAL_SECONDS="30")[1][0]
    assert "--signal" not in submit(tmp_path, SIGNAL_SECONDS="0")[1][-1]


@pytest.mark.parametrize("code", [138, 143, 1])
def test_without_the_option_nothing_is_requeued(code, tmp_path):
    found, lines = submit(tmp_path, codes=str(code))
    assert (found, len(lines)) == (code, 1)


@pytest.mark.parametrize("code", [0, 1, 143])
def test_only_a_stop_in_time_is_requeued(code, tmp_path):
    found, lines = submit(tmp_path, codes=str(code), REQUEUE="1")
    assert (found, len(lines)) == (code, 1)
    assert " --kill-on-bad-exit=0 --wait=60 --signal=USR1@120 " in lines[0]


@pytest.mark.parametrize(
    ("options", "later"),
    [
        ([], "--resume"),
        (["--load-from", "a b.pth", "--amp"], "--amp --resume"),
        (["--pretrained=x.pth", "--cfg-options", "a=1 2"], "--cfg-options a=1 2 --resume"),
        (["--resume", "old.pth", "--amp"], "--amp --resume"),
        (["--amp", "--resume"], "--amp --resume"),
    ],
)
def test_going_on_in_another_srun(options, later, tmp_path):
    code, lines = submit(tmp_path, *options, codes="138 138 0", REQUEUE="1")
    assert code == 0
    assert [line.partition(" --launcher slurm")[2].strip() for line in lines] == [" ".join(options), later, later]


def test_batch_job_is_requeued(tmp_path):
    """SLURM starts the script again, with the same arguments and a count."""
    code, lines = submit(tmp_path, "--load-from", "x.pth", codes="138", REQUEUE="1", SLURM_JOB_ID="77")
    assert code == 0
    assert lines[1:] == ["scontrol requeue 77"]
    lines = submit(tmp_path, "--load-from", "x.pth", REQUEUE="1", SLURM_JOB_ID="77", SLURM_RESTART_COUNT="1")[1]
    assert lines[-1].endswith(" --launcher slurm --resume")
