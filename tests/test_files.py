"""Files that are whole or not there."""

import errno
import os
from pathlib import Path

import pytest

from bcdnet.errors import BcdnetError
from bcdnet.files import lasting_file, refuse_overwriting, whole_file

BOTH = pytest.mark.parametrize("written", [whole_file, lasting_file])


@BOTH
def test_the_name_comes_last(written, tmp_path: Path) -> None:
    target = tmp_path / "x.png"
    target.write_text("old")
    with written(target) as beside:
        assert beside.suffix == ".png" and beside.parent == tmp_path
        beside.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]


@BOTH
def test_writers_of_one_file_do_not_meet(written, tmp_path: Path) -> None:
    target = tmp_path / "x.png"
    with written(target) as one, written(target) as other:
        one.write_text("one")
        other.write_text("other")
        assert one.read_text() == "one"
    assert target.read_text() == "one" and list(tmp_path.iterdir()) == [target]


@BOTH
def test_a_failure_leaves_what_was_there(written, tmp_path: Path) -> None:
    target = tmp_path / "x.png"
    target.write_text("old")
    with pytest.raises(UnicodeEncodeError), written(target) as beside, beside.open("w", encoding="ascii") as file:
        file.writelines(("half", "\N{DEGREE SIGN}"))
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


@BOTH
@pytest.mark.parametrize("stem", ["x" * 251, "🐈" * 62], ids=["ASCII", "emoji"])  # 255 bytes at most
def test_permissions_stay_and_a_long_name_is_no_hindrance(written, tmp_path: Path, stem) -> None:
    target = tmp_path / f"{stem}.png"
    target.write_text("old")
    target.chmod(0o600)
    with written(target) as beside:
        beside.write_text("new")
    assert target.read_text() == "new" and target.stat().st_mode & 0o777 == 0o600


@BOTH
def test_folders_on_the_way_are_made(written, tmp_path: Path) -> None:
    with written(tmp_path / "new" / "deep" / "x.png") as beside:
        beside.write_text("new")
    assert (tmp_path / "new" / "deep" / "x.png").read_text() == "new"


@BOTH
def test_an_error_names_the_file_that_was_asked_for(written, tmp_path: Path) -> None:
    target = tmp_path / "file" / "x.png"
    target.parent.touch()
    with pytest.raises(OSError, match=r"exists|Not a directory") as caught, written(target) as beside:
        beside.write_text("new")
    assert caught.value.filename == str(target.parent)
    with pytest.raises(OSError, match="is not a regular file"), written(tmp_path):
        pass
    # What a full disk says names no file at all.
    with pytest.raises(OSError, match="No space") as caught, written(tmp_path / "x.png"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "x.png")
    # What is not there cannot be given its name: that error has two.
    with pytest.raises(FileNotFoundError) as caught, written(tmp_path / "x.png"):
        pass
    assert str(caught.value).endswith(f": '{tmp_path / 'x.png'}'")


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere, and there are no pipes")
@BOTH
def test_a_link_is_followed_and_a_pipe_stays_one(written, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "x")
    with written(tmp_path / "link") as beside:
        beside.write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "x").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is not a regular file"), written(tmp_path / "pipe"):
        pass
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_an_input_is_known_by_any_name(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    (tmp_path / "link").symlink_to("x")
    refuse_overwriting([tmp_path / "y", "x"], [tmp_path / "x", "standard input", ""])
    for output in ("x", "link", "none/../x"):
        with pytest.raises(BcdnetError, match=f"{output}: would write over .*x, which is read; choose another output"):
            refuse_overwriting([tmp_path / "y", tmp_path / output], [tmp_path / "x"])
