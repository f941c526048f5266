import os
from contextlib import suppress
from pathlib import Path

import pytest

from cogvideox.atomic_io import atomic_folder, atomic_write, cannot_read, remove_stale_files, write_text
from cogvideox.errors import UserError


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_the_file_exists_after_the_block(tmp_path):
    path = tmp_path / "a" / "b" / "x.mp4"
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".mp4"
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(path.parent) == ["x.mp4"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_an_exception_in_the_block_keeps_the_old_file(tmp_path, stop):
    path = tmp_path / "x.json"
    write_text(path, "old")

    def leave_halfway():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise stop

    with pytest.raises(stop):
        leave_halfway()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.json"]


def test_concurrent_writers_use_different_temporary_files(tmp_path):
    with atomic_write(tmp_path / "x.txt") as first, atomic_write(tmp_path / "x.txt") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "x.txt").read_text() == "first"  # its block ended last
    assert names(tmp_path) == ["x.txt"]


@pytest.mark.parametrize("letter", ["x", "é", "红", "🎈"])
def test_every_file_name_the_system_allows_can_be_written(tmp_path, letter):
    name = letter * (251 // len(letter.encode())) + ".txt"
    write_text(tmp_path / name, "a")
    assert names(tmp_path) == [name]


def test_a_full_disk_raises_a_user_error(tmp_path):
    with (
        pytest.raises(UserError, match=r"cannot write .*x\.txt: the disk of the folder .* is full"),
        atomic_write(tmp_path / "x.txt"),
    ):
        Path("/dev/full").write_text("a")
    assert names(tmp_path) == []


@pytest.fixture
def nobody():
    """An unprivileged user, also if the tests run as root, who may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_missing_permission_raises_a_user_error(nobody):
    with pytest.raises(UserError, match=r"cannot write /proc/self/x\.txt: "):
        write_text("/proc/self/x.txt", "a")
    with pytest.raises(UserError, match=r"cannot write /x\.txt: no permission to write in the folder /"):
        write_text("/x.txt", "a")


def test_a_folder_or_a_file_in_the_path_raises_a_user_error(tmp_path):
    with pytest.raises(UserError, match="it is a folder"):
        write_text(tmp_path, "a")
    write_text(tmp_path / "x", "a")
    with pytest.raises(UserError, match="part of its path is a file"):
        write_text(tmp_path / "x" / "y", "a")


def test_a_long_name_raises_a_user_error(tmp_path):
    with pytest.raises(UserError, match="its name is too long"):
        write_text(tmp_path / ("x" * 300), "a")


def test_the_error_for_a_missing_file():
    with pytest.raises(FileNotFoundError) as caught:
        Path("/nowhere").read_text()
    assert str(cannot_read("/nowhere", caught.value)) == "cannot read /nowhere: file not found"


def test_stale_temporary_files_are_removed(tmp_path):
    with atomic_write(tmp_path / "x.txt") as temporary:
        temporary.touch()
    temporary.touch()  # as if the process had been killed in the block
    remove_stale_files(tmp_path, idle=60.0)
    assert temporary.exists()  # another process may be writing it
    remove_stale_files(tmp_path, tmp_path / "no such folder")
    assert names(tmp_path) == ["x.txt"]


def test_files_of_other_programs_are_never_stale(tmp_path):
    """Nor are similar names, or temporary names in folders that were not passed."""
    with atomic_write(tmp_path / "x.txt") as temporary:
        temporary.touch()
        temporary_name = temporary.name
    others = [
        ".notes.tmp",
        ".notes.tmp.txt",
        ".x.0123abcd.tmp.json",
        ".x.cogvideox-tmp.txt",
        "x" + temporary_name,
        temporary_name[1:],
    ]
    for name in (*others, f"below/{temporary_name}"):
        write_text(tmp_path / name, "text")
    (tmp_path / "link").symlink_to(tmp_path / "below")
    remove_stale_files(tmp_path)
    assert names(tmp_path) == sorted([*others, "below", "link", "x.txt"])
    assert names(tmp_path / "below") == [temporary_name]


def test_a_folder_is_replaced_if_the_block_succeeds(tmp_path):
    for content in ("a", "b"):
        with atomic_folder(tmp_path / "x") as folder:
            (folder / "file").write_text(content)
    with suppress(KeyboardInterrupt), atomic_folder(tmp_path / "x") as folder:
        (folder / "file").write_text("c")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["x"]
    assert (tmp_path / "x/file").read_text() == "b"


def test_folders_of_a_killed_process_are_removed_and_those_in_use_are_not(tmp_path):
    token = "0123456789abcdef"
    others = [f".y.{token}.new", ".x.new", f".x.{token}.new.txt", f".x.{token[1:]}.new", f"x.{token}.new"]
    for name in (*others, f".x.{token}.new", f".x.{token}.old"):
        (tmp_path / name / "vae").mkdir(parents=True)
    (tmp_path / f".x.{token[::-1]}.new").symlink_to(tmp_path / ".x.new")
    with atomic_folder(tmp_path / "x") as first:
        assert f".x.{token}.new" not in names(tmp_path)
        assert f".x.{token}.old" in names(tmp_path)  # as if it had been killed between two renames: the only copy
        with atomic_folder(tmp_path / "x"):
            assert first.exists()
        (first / "file").touch()
    assert names(tmp_path) == sorted([*others, f".x.{token[::-1]}.new", "x"])
    assert names(tmp_path / "x") == ["file"]
