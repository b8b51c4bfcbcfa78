"""Finding the newest checkpoint among many: which one it is, and how much is read for it."""

from pathlib import Path

import pytest
import torch

from localvit_det.checkpoint import search as searching
from localvit_det.checkpoint.search import checkpoint_file, describe, file_to_resume, newest_for_test, search
from localvit_det.errors import CheckpointError

WHOLE = ("state_dict", "message_hub", "optimizer")


def save(path: Path, iteration: int, keys: tuple[str, ...] = WHOLE, **settings: object) -> Path:
    meta = {"epoch": iteration // 10, "iter": iteration, "cfg": "optimizer = 1"}
    torch.save({"meta": meta, **{key: {"w": torch.zeros(3)} for key in keys}}, path, **settings)
    return path


@pytest.fixture
def reads(monkeypatch) -> list[Path]:
    """The files that are unpickled."""
    found = []

    def load(path: Path, **settings: object) -> dict:
        found.append(path)
        return original(path, **settings)

    original = searching.load_weights_only
    monkeypatch.setattr(searching, "load_weights_only", load)
    return found


def test_one_of_hundreds_is_unpickled_once(tmp_path, reads):
    for index in range(300):  # names and times say nothing
        save(tmp_path / f"epoch_{index}.pth", index * 7919 % 300 + 1)
    newest = next(tmp_path / f"epoch_{index}.pth" for index in range(300) if index * 7919 % 300 == 299)
    found = search(tmp_path)
    assert [one.iteration for one in found.found] == list(range(300, 0, -1))
    assert reads == []
    assert found.newest(resumable=True) == describe(newest)
    reads.remove(newest)  # by the line above
    assert reads == [newest]
    assert newest_for_test(tmp_path) == newest


def test_equal_ones_are_not_all_read(tmp_path, reads):
    for name in "abcde":
        save(tmp_path / f"{name}.pth", 5)
    assert search(tmp_path).newest(resumable=True).iteration == 5
    assert len(reads) == 1


@pytest.mark.parametrize("keys", [WHOLE, WHOLE[:2], WHOLE[:1], WHOLE[1:]])
@pytest.mark.parametrize("iteration", [0, 1, 255, 256, 65536, 2**31 - 1])
def test_the_beginning_says_what_the_whole_says(keys, iteration, tmp_path, reads):
    file = save(tmp_path / "a.pth", iteration, keys)
    (one,) = search(tmp_path).found
    assert reads == []
    whole = describe(file)
    assert (one.path, one.epoch, one.iteration, one.resumable) == (file, whole.epoch, iteration, keys == WHOLE)
    assert whole.resumable is (keys == WHOLE)


def test_what_the_beginning_does_not_say_is_read(tmp_path, reads):
    save(tmp_path / "old_format.pth", 3, _use_new_zipfile_serialization=False)
    torch.save({"state_dict": {}, "meta": {"epoch": 0, "iter": 4}}, tmp_path / "other_order.pth")
    torch.save({"meta": {"iter": 2**40, "epoch": 7}}, tmp_path / "large.pth")
    torch.save({"w": torch.zeros(3)}, tmp_path / "weights.pth")
    whole = save(tmp_path / "cut.pth", 9).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[:-30])
    (tmp_path / "empty.pth").touch()
    found = search(tmp_path)
    assert [one.path.stem for one in found.found] == ["large", "other_order", "old_format"]
    assert {path.stem for path in found.damaged} == {"cut", "empty"}
    assert len(reads) == 6


def test_a_beginning_that_lies_decides_nothing(tmp_path):
    save(tmp_path / "epoch_2.pth", 2)
    # Its key of that name is none of the checkpoint's own.
    meta = {"epoch": 1, "iter": 9, "state_dict": 0, "message_hub": 0, "optimizer": 0}
    torch.save({"meta": meta, "state_dict": {}}, tmp_path / "best.pth")
    torch.save({"meta": {"epoch": 1, "iter": 99, "more": {"iter": 1}}, "meta2": {}}, tmp_path / "no_weights.pth")
    pickled = {"meta": {"epoch": 1, "iter": 999}, "state_dict": {}}
    torch.save(pickled, tmp_path / "hostile.pth")
    content = (tmp_path / "hostile.pth").read_bytes()
    (tmp_path / "hostile.pth").write_bytes(
        content.replace(b"X\x0a\x00\x00\x00state_dict", b"X\x0a\x00\x00\x00\xff\xff\xff\xff\xff_dict")
    )
    found = search(tmp_path)
    assert [one.iteration for one in found.found] == [999, 99, 9, 2]
    assert found.newest(resumable=True).path.name == "epoch_2.pth"
    assert newest_for_test(tmp_path).name == "no_weights.pth"


def test_work_dirs_stand_for_their_newest_checkpoint(tmp_path):
    for name, iteration, keys in (("epoch_1", 1, WHOLE), ("epoch_2", 2, WHOLE), ("best_epoch_3", 3, WHOLE[:2])):
        save(tmp_path / f"{name}.pth", iteration, keys)
    assert checkpoint_file(tmp_path) == str(tmp_path / "best_epoch_3.pth")
    assert file_to_resume(tmp_path) == str(tmp_path / "epoch_2.pth")  # the best has no optimizer
    for file in ("none.pth", "official", tmp_path / "epoch_1.pth"):  # whoever reads it says what is wrong
        assert checkpoint_file(file) == file_to_resume(file) == str(file)
    for name in ("epoch_1", "epoch_2"):
        (tmp_path / f"{name}.pth").unlink()
    with pytest.raises(CheckpointError, match=r"go on from .* \(none has an optimizer\): name"):
        file_to_resume(tmp_path)
