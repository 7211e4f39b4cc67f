from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from edgeprune import files
from edgeprune.errors import NoSpace
from edgeprune.files import mending, write_atomic

ENDING = "; free some space or choose another folder (--out for the build, EDGEPRUNE_CACHE for the cache)"


@pytest.mark.parametrize("data", [b"\x00\xff bytes", "text: ä", "", b"x" * 100_000])
def test_what_is_written_is_what_was_given(tmp_path: Path, data: bytes | str) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_atomic(path, data)
    assert path.read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert path.stat().st_mode & 0o777 == 0o644, "a file others may read"


def test_an_old_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, "a longer text than the next")
    write_atomic(path, "short")
    assert path.read_text() == "short"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_nothing_is_left_of_a_write_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(descriptor: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(NoSpace if isinstance(error, OSError) else KeyboardInterrupt):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_it_reaches_the_disk_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "file", []
    sync = os.fsync

    def watch(descriptor: int) -> None:
        seen.append((path.exists(), os.fstat(descriptor).st_size))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    write_atomic(path, "12345")
    assert seen == [(False, 5)]


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    path = tmp_path / "taken" / "file"
    with pytest.raises(NoSpace) as error:
        write_atomic(path, "x")
    assert str(error.value) == f"cannot write {path}: a part of this path is a file{ENDING}"


def test_a_folder_where_the_file_should_be(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(NoSpace) as error:
        write_atomic(path, "x")
    assert str(error.value) == f"cannot write {path}: there is a folder of this name{ENDING}"
    assert list(path.parent.iterdir()) == [path]


def test_a_name_too_long(tmp_path: Path) -> None:
    with pytest.raises(NoSpace, match=r": the name is too long; free some space"):
        write_atomic(tmp_path / ("x" * 300), "x")


@pytest.mark.parametrize("number", sorted(files._UNWRITABLE))
def test_refusals_of_the_system_say_how_to_mend_them(number: int) -> None:
    with pytest.raises(NoSpace) as error, mending(Path("out/model.onnx")):
        raise OSError(number, os.strerror(number))
    assert str(error.value) == f"cannot write out/model.onnx: {files._UNWRITABLE[number]}{ENDING}"
    assert error.value.exit_code == 4
    assert isinstance(error.value.__cause__, OSError)


@pytest.mark.parametrize("error", [OSError(errno.EBADF, "a bug"), ValueError("another")])
def test_bugs_stay_bugs(error: Exception) -> None:
    with pytest.raises(type(error)) as found, mending(Path("file")):
        raise error
    assert found.value is error
