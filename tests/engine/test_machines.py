"""Two machines, as network namespaces with a cable between them; trainings that go on on more or fewer processes."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from forked import Forked, _one_thread_and_no_process_left, forked_ranks, wait_for  # noqa: F401 - a fixture
from mmengine import dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from toy_training import Do, Plain, different, final, tensors_of, toy_runner

from localvit_det.engine import processes
from localvit_det.errors import ProcessError

CLONE_NEWNET, CLONE_NEWUTS = 0x40000000, 0x04000000
PORT, EPOCHS = 29500, 8
tools = all(map(shutil.which, ("nsenter", "ip")))
needs_networks = pytest.mark.skipif(not tools, reason="needs nsenter and ip")


def machine(number: int, folder: Path, run: Callable[[int, Path], None], network: int | None = None) -> None:
    """Run a function once there is a cable, in a network of its own, or in one of before by its file."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUTS | (CLONE_NEWNET if network is None else 0)):
        os._exit(77)
    if network is not None and libc.setns(network, CLONE_NEWNET):
        os._exit(77)
    socket.sethostname(f"machine{number}")
    (folder / f"alone_{number}").touch()
    wait_for((folder / "cable").exists)
    os.environ["GLOO_SOCKET_IFNAME"] = f"lvt{number}"
    processes._SILENCE = 4
    run(number, folder)


def train(folder: Path, epochs: int = 999, pause: float = 0.05, resume: bool = False, workers: int = 0) -> None:
    """Train with iterations that are long enough for a cable to be cut between them."""
    hook = Do("after_train_iter", lambda _: time.sleep(pause))
    try:
        options = {"launcher": "pytorch", "epochs": epochs, "custom_hooks": [hook], "resume": resume}
        toy_runner(folder / "run", workers=workers, **options).train()
    except ProcessError as error:
        sys.stdout.write(f"ENDS: {error}\n")
        raise SystemExit(1) from None


def alone(number: int, folder: Path) -> None:
    """One process, as a launcher that never starts it again."""
    addresses = {"MASTER_ADDR": "10.77.0.1", "MASTER_PORT": str(PORT)}
    os.environ.update(RANK=str(number), LOCAL_RANK="0", WORLD_SIZE="2", **addresses)
    train(folder, workers=number)


def restarted(number: int, folder: Path) -> None:
    """One process, as `torchrun --nnodes 2 --max-restarts 3 --rdzv-backend c10d` starts it; forked, which is faster."""
    # By default, a newcomer waits for an address that is not sent again.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    settings = LaunchConfig(
        min_nodes=2,
        max_nodes=2,
        nproc_per_node=1,
        max_restarts=3,
        run_id="job",
        rdzv_backend="c10d",
        rdzv_endpoint=f"10.77.0.1:{PORT}",
        rdzv_configs={"is_host": number == 0, "keep_alive_interval": 1},
        local_addr=f"10.77.0.{number + 1}",
        start_method="fork",
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / "logs")),
    )
    elastic_launch(settings, train)(folder, EPOCHS, 0.1, True)


class Connected:
    """Two machines, with a cable between them."""

    def __init__(self, folder: Path, run: Callable[[int, Path], None]) -> None:
        self.folder, self.run = folder, run
        self.ranks = [Forked(partial(machine, n, folder, run), folder / f"{n}.txt") for n in (0, 1)]
        wait_for(
            lambda: all((folder / f"alone_{n}").exists() for n in (0, 1)) or any(r.pid == _ended() for r in self.ranks)
        )
        self.networks = [os.open(f"/proc/{rank.pid}/ns/net", os.O_RDONLY) for rank in self.ranks]  # outlive them
        # Where other tests see neither end, which may have the same names.
        peer = ["peer", "name", "lvt1", "netns", str(self.ranks[1].pid)]
        self.ip("link", "add", "lvt0", "type", "veth", *peer, at=0)
        for n in (0, 1):
            self.ip("addr", "add", f"10.77.0.{n + 1}/24", "dev", f"lvt{n}", at=n)
            for link in (f"lvt{n}", "lo"):
                self.ip("link", "set", link, "up", at=n)
        (folder / "cable").touch()

    def ip(self, *words: str, at: int | None = None) -> None:
        inside = [] if at is None else ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self.networks[at]}"]
        if subprocess.run([*inside, "ip", *words], capture_output=True).returncode:
            pytest.skip("this system makes no networks")

    def set_cable(self, number: int, state: str) -> None:
        """Set a machine's end of the cable `up` or `down`."""
        self.ip("link", "set", f"lvt{number}", state, at=number)

    def start_again(self, number: int) -> None:
        """Start a machine that was killed."""
        self.set_cable(number, "up")
        back = partial(machine, number, self.folder, self.run, self.networks[number])
        self.ranks[number] = Forked(back, self.folder / f"{number}_again.txt")

    def __enter__(self) -> "Connected":
        return self

    def __exit__(self, *_: object) -> None:
        for network in self.networks:
            os.close(network)


@pytest.mark.slow
@needs_networks
@pytest.mark.parametrize("lost", [0, 1])
def test_a_machine_is_lost(lost, tmp_path):
    """Its cable is cut: nothing says that a connection has ended. The other one ends, and says why."""
    with Connected(tmp_path, alone) as machines:
        wait_for(lambda: "Epoch(train)" in machines.ranks[0].text(), 60)
        machines.set_cable(lost, "down")
        cut, other = time.monotonic(), machines.ranks[1 - lost]
        assert other.wait(60) == 1
    assert time.monotonic() - cut < 40  # with _SILENCE of 4 s: gloo alone waits for 1800
    assert "ENDS: " in other.text()
    assert "its machine is lost" in other.text()
    assert f"so process {1 - lost} ends, too: --resume goes on" in other.text()


@pytest.mark.slow
@needs_networks
def test_a_lost_machine_comes_back(tmp_path):
    """Without power it says nothing. The other waits for it, and both go on as if nothing had been."""
    whole = forked_ranks(lambda rank: train(tmp_path / "whole", EPOCHS, pause=0), tmp_path / "whole")
    with Connected(tmp_path, restarted) as machines:
        wait_for((tmp_path / "run/epoch_2.pth").exists, 60)
        machines.set_cable(1, "down")
        os.killpg(machines.ranks[1].pid, signal.SIGKILL)
        wait_for(lambda: "ENDS: " in machines.ranks[0].text(), 60)
        assert not (tmp_path / f"run/epoch_{EPOCHS}.pth").exists()
        machines.start_again(1)
        assert [rank.wait(60) for rank in machines.ranks] == [0, 0], machines.ranks[1].text()[-2000:]
    assert [rank.wait(60) for rank in whole] == [0, 0]
    expected, found = (tensors_of(final(folder / "run")) for folder in (tmp_path / "whole", tmp_path))
    assert not different(expected, found)
    assert "Going on from epoch_2.pth" in machines.ranks[0].text()


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
