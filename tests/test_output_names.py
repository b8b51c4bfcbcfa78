"""Names of outputs: valid on every system, unique, below their folder."""

import pytest

from localvit_det.errors import OutputError
from localvit_det.files import OutputFolder, UniqueNames, drawn_suffix, safe_name, without_outputs


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a b-ü_1.jpg", "a b-ü_1.jpg"),  # as it is
        ("u\u0308.jpg", "ü.jpg"),  # one form of Unicode
        ("..", "_"),
        ("../x", "__x"),
        ("", "_"),
        (".hidden.jpg", "_hidden.jpg"),
        ("a/b\\c:d*e?f.jpg", "a_b_c_d_e_f.jpg"),
        ("line\nbreak\x00.jpg", "line_break_.jpg"),
        ("\udcff.jpg", "_.jpg"),
        ("Nul.tar.gz", "_Nul.tar.gz"),
        ("com1", "_com1"),
        ("common.jpg", "common.jpg"),
        ("end. ", "end"),
        ("100%.jpg", "100%.jpg"),
    ],
)
def test_safe_name(text, name):
    assert safe_name(text) == name


def test_long_names_stay_apart():
    names = {safe_name("ü" * 300 + f"{index}.jpeg") for index in range(3)}
    assert len(names) == 3
    assert all(len(name.encode()) <= 190 and name.endswith(".jpeg") for name in names)


def test_unique_whatever_the_system():
    wanted = ["a.JPG", "a.jp2", "a.jpg", "a.png", "b/x.jpg", "B/X.jpg", "b", "a.jpg", "../a.jpg", "/tmp/a.jpg"]
    names = UniqueNames().plan([(name, drawn_suffix(name)) for name in wanted])
    assert names[:6] == ["a_JPG.jpg", "a_jp2.jpg", "a.jpg", "a.png", "b/x.jpg", "B/X_2.jpg"]
    assert names[7:] == ["a_2.jpg", "_/a.jpg", "_/tmp/a.jpg"]
    assert len({name.casefold() for name in names}) == len(wanted)


def test_no_file_has_the_name_of_a_folder():
    names = UniqueNames()
    assert names.plan([("a.jpg/b.jpg", ".jpg"), ("A.jpg", ".jpg")]) == ["a.jpg/b.jpg", "A_2.jpg"]
    assert [names.name("c"), names.name("c/d.jpg")] == ["c", "c_/d.jpg"]


def test_index(tmp_path):
    (tmp_path / "mine.jpg").write_bytes(b"")
    outputs = OutputFolder(tmp_path, [tmp_path / "mine.jpg"])
    path = outputs.write(outputs.name("sub/theirs.jpg"), b"1")
    with pytest.raises(OutputError, match="written over"):
        outputs.plan([("mine.jpg", ".jpg")])
    assert without_outputs([tmp_path / "mine.jpg", path]) == [tmp_path / "mine.jpg"]
    again = OutputFolder(tmp_path)
    again.write(again.name("sub/theirs.jpg"), b"2")
    assert (tmp_path / ".localvit_outputs").read_text() == "\nsub/theirs.jpg"
