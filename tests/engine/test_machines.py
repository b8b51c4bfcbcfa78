"""Two machines, as network namespaces with a cable between them; trainings that go on on more or fewer processes."""

import ctypes
import os
import shutil
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from forked import Forked, _one_thread_and_no_process_left, forked_ranks, wait_for  # noqa: F401 - a fixture
from mmengine import dist
from toy_training import Do, Plain, different, final, tensors_of, toy_runner

from localvit_det.engine import processes
from localvit_det.errors import ProcessError

CLONE_NEWNET, CLONE_NEWUTS = 0x40000000, 0x04000000
PORT = 29500


def machine(number: int, folder: Path) -> None:
    """Train in a network of its own, once there is a cable."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET | CLONE_NEWUTS):
        os._exit(77)
    socket.sethostname(f"machine{number}")
    (folder / f"alone_{number}").touch()
    wait_for((folder / "cable").exists)
    os.environ.update(
        RANK=str(number),
        LOCAL_RANK="0",
        WORLD_SIZE="2",
        MASTER_ADDR="10.77.0.1",
        MASTER_PORT=str(PORT),
        GLOO_SOCKET_IFNAME=f"lvt{number}",
    )
    processes._SILENCE = 4
    pause = Do("after_train_iter", lambda _: time.sleep(0.05))
    try:
        toy_runner(folder / "run", launcher="pytorch", epochs=999, custom_hooks=[pause], workers=number).train()
    except ProcessError as error:
        sys.stdout.write(f"ENDS: {error}\n")
        raise SystemExit(1) from None


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nsenter") or not shutil.which("ip"), reason="needs nsenter and ip")
@pytest.mark.parametrize("lost", [0, 1])
def test_a_machine_is_lost(lost, tmp_path):
    """Its cable is cut: nothing says that a connection has ended. The other one ends, and says why."""
    ranks = [Forked(partial(machine, n, tmp_path), tmp_path / f"{n}.txt") for n in (0, 1)]
    wait_for(lambda: all((tmp_path / f"alone_{n}").exists() for n in (0, 1)) or any(r.pid == _ended() for r in ranks))

    def ip(*words: str, at: Forked | None = None) -> None:
        inside = ["nsenter", "-t", str(at.pid), "-n"] if at else []
        if subprocess.run([*inside, "ip", *words], capture_output=True).returncode:
            pytest.skip("this system makes no networks")

    ip("link", "add", "lvt0", "type", "veth", "peer", "name", "lvt1")
    for n, rank in enumerate(ranks):
        ip("link", "set", f"lvt{n}", "netns", str(rank.pid))
        ip("addr", "add", f"10.77.0.{n + 1}/24", "dev", f"lvt{n}", at=rank)
        for link in (f"lvt{n}", "lo"):
            ip("link", "set", link, "up", at=rank)
    (tmp_path / "cable").touch()
    wait_for(lambda: "Epoch(train)" in ranks[0].text(), 60)
    ip("link", "set", f"lvt{lost}", "down", at=ranks[lost])
    cut, other = time.monotonic(), ranks[1 - lost]
    assert other.wait(60) == 1
    assert time.monotonic() - cut < 40  # with _SILENCE of 4 s: gloo alone waits for 1800
    assert "ENDS: " in other.text()
    assert "its machine is lost" in other.text()
    assert f"so process {1 - lost} ends, too: --resume goes on" in other.text()


def _ended() -> int:
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return 0
    if pid and os.waitstatus_to_exitcode(status) == 77:
        pytest.skip("this system allows no namespaces")
    return pid


def test_all_connections_are_watched(monkeypatch, tmp_path):
    """By the system: whoever computes for an hour answers, and a machine without power does not."""
    with socket.socket() as server, socket.socket() as client, socket.socket(socket.AF_UNIX) as other:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())
        monkeypatch.setattr(dist, "get_world_size", lambda: 2)
        monkeypatch.setattr(dist, "all_gather_object", lambda one: [one, one])
        processes.exchange_addresses()
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
        silent = sum(client.getsockopt(socket.IPPROTO_TCP, o) for o in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL) * 2)
        assert silent - client.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 20
        client.send(b"still open")
        assert other.fileno() >= 0


def test_resumed_on_one_two_and_four_processes(tmp_path):
    """What two processes saved: on two the weights are the same to the last bit, on others to 1e-5."""

    def go(rank: int, name: str, batch: int, resume: bool = True, epochs: int = 3, launcher: str = "pytorch") -> None:
        folder = tmp_path / name
        toy_runner(
            folder, model=Plain(), epochs=epochs, launcher=launcher, batch_size=batch, resume=resume, workers=0
        ).train()

    def train(processes: int, name: str, **options) -> None:
        if processes == 1:
            return go(0, name, 4, launcher="none", **options)
        ranks = forked_ranks(partial(go, name=name, batch=4 // processes, **options), tmp_path / name, processes)
        assert [rank.wait(60) for rank in ranks] == [0] * processes, ranks[0].text()[-2000:]
        return None

    train(2, "whole", resume=False)
    train(2, "half", resume=False, epochs=2)
    expected = tensors_of(final(tmp_path / "whole"))
    for count in (2, 1, 4):
        name = f"on_{count}"
        shutil.copytree(tmp_path / "half", tmp_path / name)
        (tmp_path / name / "last_checkpoint").write_text(str(tmp_path / name / "epoch_2.pth"))
        train(count, name)
        found = tensors_of(final(tmp_path / name))
        assert final(tmp_path / name).name == "epoch_3.pth"
        if count == 2:
            assert not different(expected, found)
        for key, value in expected.items():
            if "state_dict" in key:
                torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5)
