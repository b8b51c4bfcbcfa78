"""The chaos test, in short, and that it sees what it looks for."""

import random
from functools import partial
from pathlib import Path

import pytest
import torch
from forked import _one_thread_and_no_process_left  # noqa: F401 - a fixture: trainings are forks of this process
from predict_cases import published
from toy_training import toy_runner

import chaos
from localvit_det import files
from reliability.checks import differences, drafts, newest, problems, stamp, torn
from reliability.faults import DAMAGES, KILLS, MOMENTS, damage, draw_kills
from reliability.training import Task
from reliability.writers import Ending, commands, disturb


@pytest.mark.slow
def test_three_kills(tmp_path, capsys):
    """SIGKILL in a write, a full disk, a closed terminal, a checkpoint that is cut off, Ctrl-C under tee."""
    chaos.main(["--kills", "3", "--writers", "0", "--seed", "3227", "--fork", "--work-dir", str(tmp_path)])
    table = capsys.readouterr().out
    for kind in ("SIGKILL in a write", "full disk", "closed terminal at", "newest cut off", "Ctrl-C under tee at"):
        assert kind in table
    assert table.strip().endswith("undisturbed one: yes")


@pytest.mark.slow
def test_commands_that_write(tmp_path):
    """Each ends by itself, is killed, and finds a full disk."""
    task = Task.prepare(tmp_path, 8, fork=True)
    lines = commands(task, published(tmp_path, tmp_path / "chaos_nano.py"))
    for name in ("predict", "publish", "convert weights", "convert dataset"):
        assert not list(disturb(task, lines[name], 2, random.Random(0))), name


def test_kills_are_drawn_from_the_seed():
    kills = draw_kills(200, 0, 5.0)
    assert kills == draw_kills(200, 0, 5.0) != draw_kills(200, 1, 5.0)
    assert {kill.moment for kill in kills} == set(MOMENTS)
    assert {kill.damage for kill in kills} == set(DAMAGES)
    assert {kill.name for kill in kills} == set(KILLS)
    assert all(0 <= kill.after <= 5 for kill in kills)


class TestSees:
    """Faults that the chaos test must find."""

    @pytest.fixture
    def work_dir(self, tmp_path: Path) -> Path:
        toy_runner(tmp_path, epochs=2).train()
        assert list(problems(tmp_path, {})) == []
        return tmp_path

    def test_torn_files(self, work_dir):
        path = work_dir / "epoch_1.pth"
        content = path.read_bytes()
        for half in (b"", content[:-1], content[: len(content) // 2]):
            path.write_bytes(half)
            assert torn(path)
            assert [problem[:20] for problem in problems(work_dir, {})] == ["epoch_1.pth is torn "]
        mine = {path.name: stamp(path)}
        assert not list(problems(work_dir, mine))
        path.write_bytes(content[:-2])  # another torn file under the same name
        assert list(problems(work_dir, mine))

    def test_pointer_to_nothing(self, work_dir):
        (work_dir / "epoch_2.pth").unlink()
        assert list(problems(work_dir, {})) == ["last_checkpoint names epoch_2.pth, which is not there"]

    def test_a_bit(self, work_dir):
        first, second = work_dir / "epoch_2.pth", work_dir / "changed.pth"
        content = torch.load(first, weights_only=False)
        torch.save(content, second)
        assert differences(first, second) == []
        content["state_dict"]["head.bias"].view(torch.int32)[0] ^= 1
        torch.save(content, second)
        assert differences(first, second) == [".state_dict.head.bias"]

    @pytest.mark.slow
    def test_outputs_that_are_not_whole(self, tmp_path, monkeypatch):
        """Written under the final name; of another size than otherwise; alone in a folder of several."""
        task = Task.prepare(tmp_path, 8, fork=True)
        lines = commands(task, published(tmp_path, tmp_path / "chaos_nano.py"))
        dataset = Ending(task, lines["convert dataset"])
        assert list(dataset.problems(dataset.sizes)) == []
        file = next(iter(dataset.sizes))
        assert list(dataset.problems({**dataset.sizes, file: 1, "coco/other": 1})) == [
            f"{file} is torn",
            "coco/other is missing in its folder",
        ]
        monkeypatch.setattr(files, "atomic_file", partial(open, mode="wb"))
        (problem,) = disturb(task, lines["publish"], 0, random.Random(0))
        assert problem.endswith(".pth is written under its final name")

    def test_losses(self, work_dir):
        """What is looked at after each round, for a training that has logged more than it has saved."""
        run = chaos.Chaos(Task(work_dir, 24), 0, 0.1)
        run.work_dir = work_dir
        for logged, wrong in (((7, 12), 0), ((7, 14), 0), ((7, 15), 1), ((8, 14), 1)):
            one = chaos.Round("a kill", base=6)
            run._look(one, type("Training", (), {"logged": lambda self, logged=logged: logged})())
            assert len(one.wrong) == wrong, one.wrong
        assert one.saved == 12


@pytest.mark.parametrize("kind", sorted(set(DAMAGES) - {"none", "full disk"}))
def test_damage_is_done(kind, tmp_path):
    toy_runner(tmp_path, epochs=1).train()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    names, content = damage(kind, tmp_path, newest(tmp_path), random.Random(0))
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert after != before
    assert all(torn(tmp_path / name) for name in names)
    assert (content is None) == (kind != "newest cut off")
    assert bool(drafts(tmp_path)) == (kind == "left draft")
