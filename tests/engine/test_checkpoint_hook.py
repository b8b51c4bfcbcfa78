"""No checkpoint is ever torn or lost, and --resume finds the newest usable one."""

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.config import config as config_module
from mmengine.runner import save_checkpoint
from torch import nn
from toy_training import Do, Scores, final, log_of, names, toy_runner

from localvit_det import files
from localvit_det.checkpoint.search import newest_for_test, search
from localvit_det.engine import checkpoint_hook
from localvit_det.errors import CheckpointError, ConfigError, NonFiniteError, OutputError


def resumed(work_dir: Path, **options):
    runner = toy_runner(work_dir, resume=True, **options)
    runner.train()
    return runner


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "run"
    toy_runner(folder).train()
    assert names(folder) == ["epoch_1.pth", "epoch_2.pth", "epoch_3.pth"]
    return folder


@pytest.fixture
def trained(made: Path, tmp_path: Path) -> Path:
    """A folder with epoch_1 to epoch_3."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_3.pth"))
    return tmp_path


@pytest.mark.parametrize("resume", [False, True])
def test_folder_elsewhere_is_refused(resume, tmp_path):
    """It made a local folder `s3:` or, on a resume, began anew over what was there."""
    with pytest.raises(ConfigError, match="would go to s3://bucket, where --resume cannot look for them"):
        toy_runner(tmp_path, checkpoint={"out_dir": "s3://bucket"}, resume=resume).train()
    assert not names(tmp_path)


def test_folder_of_its_own(tmp_path):
    place = {"out_dir": str(tmp_path / "saved"), "backend_args": {"backend": "local"}}
    options = {"checkpoint": {**place, "max_keep_ckpts": 1}}
    toy_runner(tmp_path / "run", epochs=1, **options).train()
    assert "the newest usable checkpoint" in log_of(resumed(tmp_path / "run", epochs=2, **options))
    assert names(tmp_path / "saved/run") == ["epoch_2.pth"]


RISING = [{"mAP": value, "images": 7} for value in (0.1, 0.2, 0.3)]


class TestWriting:
    @pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
    def test_interrupted_write_leaves_the_old_file(self, tmp_path, monkeypatch, failing):
        target = tmp_path / "epoch_1.pth"
        save_checkpoint({"a": 1}, str(target))
        before = target.read_bytes()

        def fail(*args: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        if failing == "write":
            monkeypatch.setattr(files, "open", lambda path, mode: _Full(path, mode), raising=False)
        else:
            monkeypatch.setattr(files.os, failing, fail)
        with pytest.raises(OutputError, match=r"epoch_1\.pth of 0\.0 MB could not be written \(No space left"):
            save_checkpoint({"a": 2}, str(target))
        assert target.read_bytes() == before
        assert os.listdir(tmp_path) == ["epoch_1.pth"]

    def test_link_stays_a_link(self, tmp_path):
        (tmp_path / "disk").mkdir()
        link = tmp_path / "link.txt"
        link.symlink_to(tmp_path / "disk/real.txt")
        files.write_text(link, "new")
        assert link.is_symlink()
        assert (tmp_path / "disk/real.txt").read_text() == "new"

    def test_drafts_of_killed_processes_go(self, tmp_path):
        for name in (".epoch_1.pth.123.tmp", ".hidden", "notes.tmp"):
            (tmp_path / name).touch()
        assert files.remove_drafts(tmp_path) == [".epoch_1.pth.123.tmp"]
        assert sorted(os.listdir(tmp_path)) == [".hidden", "notes.tmp"]

    def test_outputs_are_checked(self, tmp_path):
        files.check_writable(tmp_path / "new/folder/x.pkl", "--out")
        (tmp_path / "file").touch()
        with pytest.raises(OutputError, match=r"--out .*file/x\.pkl cannot be written"):
            files.check_writable(tmp_path / "file/x.pkl", "--out")
        with pytest.raises(OutputError, match="it is a folder"):
            files.check_writable(tmp_path, "--out")

    def test_order_of_steps(self, tmp_path, monkeypatch):
        """The old checkpoint goes after the new one and the pointer are in place."""
        seen = []
        original = Path.unlink
        monkeypatch.setattr(
            os, "remove", lambda path: (seen.append((names(tmp_path), final(tmp_path).name)), original(Path(path)))
        )
        toy_runner(tmp_path, checkpoint={"max_keep_ckpts": 1}).train()
        assert names(tmp_path) == ["epoch_3.pth"]
        assert seen == [
            (["epoch_1.pth", "epoch_2.pth"], "epoch_2.pth"),
            (["epoch_2.pth", "epoch_3.pth"], "epoch_3.pth"),
        ]

    @pytest.mark.parametrize("metrics", [["mAP"], ["mAP", "images"]])
    def test_order_of_best(self, metrics, tmp_path, monkeypatch):
        """The previous best checkpoint goes after the new one is in place, of each metric by itself."""
        seen = []
        original = Path.unlink
        monkeypatch.setattr(os, "remove", lambda path: (seen.append(best()), original(Path(path))))

        def best() -> list[str]:
            return [name for name in names(tmp_path) if name.startswith("best_")]

        checkpoint = {"save_best": metrics, "rule": "greater"}
        toy_runner(tmp_path, validate=True, checkpoint=checkpoint, custom_hooks=[Scores(*RISING)]).train()
        assert [len(there) for there in seen] == [len(metrics) + 1] * 2
        assert best() == sorted(f"best_{metric}_epoch_{3 if metric == 'mAP' else 1}.pth" for metric in metrics)

    def test_full_disk_ends_a_training_in_one_sentence(self, tmp_path, monkeypatch):
        """The checkpoint before it is intact, nothing else is left, and the training goes on when there is room."""
        with monkeypatch.context() as disk:
            opened = []

            def open_file(path: Path, mode: str) -> object:
                opened.append(path)
                return _Full(path, mode) if path.name.startswith(".epoch_2") else path.open(mode)

            disk.setattr(files, "open", open_file, raising=False)
            with pytest.raises(OutputError, match=r"epoch_2\.pth of .* could not be written \(No space left.*--resume"):
                toy_runner(tmp_path, checkpoint={"max_keep_ckpts": 1}).train()
            assert any(path.name.startswith(".epoch_2") for path in opened)
        assert names(tmp_path) == ["epoch_1.pth"]
        assert not list(tmp_path.rglob("*.tmp"))
        assert (tmp_path / "last_checkpoint").read_text().endswith("epoch_1.pth")
        assert "Going on from epoch_1.pth" in log_of(resumed(tmp_path, checkpoint={"max_keep_ckpts": 1}))
        assert names(tmp_path) == ["epoch_3.pth"]

    def test_other_outputs_on_a_full_disk(self, tmp_path):
        """What is not a checkpoint, as MMEngine's log of numbers."""

        def fill(runner) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", "scalars.json")

        with pytest.raises(OutputError, match=r"cannot write to scalars\.json \(No space left .*--resume goes on"):
            toy_runner(tmp_path, custom_hooks=[Do("after_train_iter", fill)]).train()

    def test_weights_that_are_not_finite_are_not_saved(self, trained):
        runner = toy_runner(trained, resume=True, epochs=4)
        runner.model.norm.register_forward_hook(
            lambda module, *_: (module.running_var.data.fill_(float("nan")), None)[1]
        )
        with pytest.raises(NonFiniteError, match=r"first: norm\.running_var"):
            runner.train()
        assert names(trained) == ["epoch_1.pth", "epoch_2.pth", "epoch_3.pth"]


class _Full:
    """A file on a full disk."""

    def __init__(self, path: Path, mode: str) -> None:
        self._file = path.open(mode)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        self._file.write(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")


class TestFinding:
    @pytest.mark.parametrize("pointer", [None, "", "/elsewhere/epoch_9.pth", "epoch_1.pth", "\0\xff"])
    def test_pointer_is_not_needed(self, trained, pointer):
        (trained / "last_checkpoint").unlink()
        if pointer is not None:
            (trained / "last_checkpoint").write_text(pointer)
        assert search(trained).newest(resumable=True).path.name == "epoch_3.pth"
        assert newest_for_test(trained).name == "epoch_3.pth"
        assert "Going on from epoch_3.pth (epoch 3, iteration 18)" in log_of(resumed(trained))

    @pytest.mark.parametrize("damage", ["empty", "half", "flipped", "text", "zeros"])
    def test_damaged_ones_are_passed_over(self, trained, damage):
        file = trained / "epoch_3.pth"
        content = file.read_bytes()
        middle = content.index(b"/data/0") + 200
        file.write_bytes(
            {
                "empty": b"",
                "half": content[: len(content) // 2],
                "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
                "text": b"hello",
                "zeros": bytes(len(content)),
            }[damage]
        )
        log = log_of(resumed(trained))
        assert "Going on from epoch_2.pth (epoch 2, iteration 12)" in log
        assert "; epoch_3.pth " in log
        assert names(trained) == ["epoch_1.pth", "epoch_2.pth", "epoch_3.pth"]
        assert search(trained).newest(resumable=True).path.name == "epoch_3.pth"  # trained anew
        assert [path.name for path in trained.glob("set_aside/*/*")] == ["epoch_3.pth"]

    def test_an_older_one_is_tested_and_named(self, trained, monkeypatch):
        said = []
        monkeypatch.setattr("localvit_det.checkpoint.search.print_log", lambda message, *_: said.append(message))
        file = trained / "epoch_3.pth"
        file.write_bytes(file.read_bytes()[:1000])
        assert newest_for_test(trained).name == "epoch_2.pth"
        [sentence] = said
        assert sentence.startswith(f"Taking {trained / 'epoch_2.pth'}; epoch_3.pth is cut off")

    def test_nothing_usable_is_refused(self, trained):
        for path in trained.glob("*.pth"):
            path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(CheckpointError, match=r"no usable checkpoint in .*epoch_1\.pth is cut off"):
            resumed(trained)
        assert names(trained) == ["epoch_1.pth", "epoch_2.pth", "epoch_3.pth"]
        with pytest.raises(CheckpointError, match="no checkpoint that can be read"):
            newest_for_test(trained)

    def test_empty_folder_starts_from_the_beginning(self, tmp_path):
        assert "the training starts from the beginning" in log_of(resumed(tmp_path, epochs=1))

    def test_moved_work_dir(self, trained, tmp_path_factory):
        copy = tmp_path_factory.mktemp("other") / "moved"
        shutil.copytree(trained, copy)
        assert newest_for_test(copy).parent == copy
        runner = resumed(copy, epochs=4, checkpoint={"max_keep_ckpts": 1})
        assert f"usable checkpoint of {copy}" in log_of(runner)
        assert names(copy) == ["epoch_4.pth"]
        assert len(names(trained)) == 3

    def test_pointer_elsewhere_is_named_not_followed(self, trained, tmp_path_factory):
        empty = tmp_path_factory.mktemp("empty")
        shutil.copy(trained / "last_checkpoint", empty)
        with pytest.raises(CheckpointError, match=r"points to .*epoch_3\.pth"):
            newest_for_test(empty)

    def test_best_checkpoints_follow_a_move(self, tmp_path, tmp_path_factory):
        options = {"validate": True, "checkpoint": {"save_best": "mAP", "rule": "greater"}}
        toy_runner(tmp_path, **options).train()
        copy = tmp_path_factory.mktemp("other") / "moved"
        shutil.copytree(tmp_path, copy)
        resumed(copy, epochs=9, **options)
        best = [name for name in names(copy) if name.startswith("best_")]
        assert len(best) == 1
        assert len([name for name in names(tmp_path) if name.startswith("best_")]) == 1

    def test_new_training_keeps_the_old_one_aside(self, trained):
        runner = toy_runner(trained, epochs=1)
        runner.train()
        assert names(trained) == ["epoch_1.pth"]
        aside = [path.name for path in trained.glob("set_aside/*/*")]
        assert sorted(aside) == ["epoch_1.pth", "epoch_2.pth", "epoch_3.pth"]
        assert "not of this training, moved to" in log_of(runner)

    def test_other_files_stay(self, tmp_path):
        torch.save({"state_dict": {}}, tmp_path / "pretrained.pth")
        toy_runner(tmp_path, epochs=1).train()
        assert names(tmp_path) == ["epoch_1.pth", "pretrained.pth"]

    def test_going_back_by_name(self, trained):
        runner = toy_runner(trained, resume=True, load_from=str(trained / "epoch_1.pth"), epochs=2)
        runner.train()
        assert names(trained) == ["epoch_1.pth", "epoch_2.pth"]
        assert sorted(path.name for path in trained.glob("set_aside/*/*")) == ["epoch_2.pth", "epoch_3.pth"]

    def test_killed_before_the_old_one_went(self, trained):
        resumed(trained, epochs=3, checkpoint={"max_keep_ckpts": 1})
        assert names(trained) == ["epoch_3.pth"]


def test_every_few_minutes(tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 13))
    monkeypatch.setattr(checkpoint_hook, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    seen = []
    look = Do("before_train_iter", lambda runner: seen.append(names(tmp_path)))
    toy_runner(tmp_path, epochs=1, custom_hooks=[look], checkpoint={"every_minutes": 0.5}).train()
    assert ["interim_iter_3.pth"] in seen
    assert all(len(found) <= 1 for found in seen)
    assert names(tmp_path) == ["epoch_1.pth"]


@pytest.mark.skipif(not hasattr(config_module, "FormatCode"), reason="OneDL's MMEngine formats elsewhere")
def test_the_text_of_the_config_is_formatted_for_readers_alone(tmp_path, monkeypatch):
    """In the log and the work dir's file; a checkpoint has the same values."""
    formatted = []
    monkeypatch.setattr(config_module, "FormatCode", lambda text, **_: (formatted.append(text) or text, True))
    runner = toy_runner(tmp_path)
    runner.train()
    assert len(names(tmp_path)) == 3 > len(formatted)
    saved = torch.load(tmp_path / "epoch_3.pth", weights_only=False)["meta"]["cfg"]
    assert Config.fromstring(saved, ".py").to_dict() == runner.cfg.to_dict()


def test_gradients_of_another_number_of_processes_are_dropped():
    model, lines = nn.Linear(2, 1), []
    runner = SimpleNamespace(
        model=model, optim_wrapper=None, logger=SimpleNamespace(warning=lines.append, info=lines.append)
    )
    one = {"weight": torch.ones(1, 2)}
    checkpoint_hook.restore_gradients(runner, [one, one], 1)
    assert model.weight.grad is None
    assert "by 2 processes, now there are 1" in lines[0]
    checkpoint_hook.restore_gradients(runner, [one], 1)
    assert torch.equal(model.weight.grad, one["weight"])
