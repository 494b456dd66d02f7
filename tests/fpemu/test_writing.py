"""Files are written whole or not at all, through links, and over regular files only."""

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys

import pytest

from fpemu import _writing as writing


def test_an_existing_file_is_replaced_and_keeps_its_permissions(tmp_path):
    path = tmp_path / "report.html"
    path.write_bytes(b"old")
    path.chmod(0o640)
    writing.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    writing.write(tmp_path / "a", b"")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_file_is_written(tmp_path, exists):
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to("second")
    (tmp_path / "second").symlink_to("far/file")
    if exists:
        (tmp_path / "far" / "file").write_bytes(b"old")
    writing.write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "second").is_symlink()
    assert (tmp_path / "far" / "file").read_bytes() == b"new"


def special(tmp_path, kind):
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to("loop")
    elif kind == "link to a device":
        path.symlink_to("/dev/full")
    elif kind == "link to standard output":
        path.symlink_to("/dev/stdout")
    elif kind == "folder":
        path.mkdir()
    elif kind == "nowhere":
        return path / "file"
    elif kind == "file":
        path.write_bytes(b"")
        return path / "file"
    else:
        return kind
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("/dev/full", "a device or a pipe"),
        ("/dev/null", "a device or a pipe"),
        ("/dev/stdout", "an open file of a process"),
        ("/dev/fd/1", "an open file of a process"),
        ("/proc/self/fd/1", "an open file of a process"),
        ("pipe", "a device or a pipe"),
        ("loop", "a link to itself"),
        ("link to a device", "a device or a pipe"),
        ("link to standard output", "an open file of a process"),
        ("folder", "is a folder, not a file"),
        ("nowhere", "no folder '.*nowhere'"),
        ("file", "file' is no folder for"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other devices")
def test_what_is_no_regular_file_is_refused(tmp_path, kind, message):
    path = special(tmp_path, kind)
    before = os.lstat(path) if kind not in ("nowhere", "file") else None
    for act in (writing.check, lambda path: writing.write(path, b"new")):
        with pytest.raises(OSError, match=message) as caught:
            act(path)
        assert str(path) in str(caught.value)
    if before is not None:
        assert stat.S_IFMT(os.lstat(path).st_mode) == stat.S_IFMT(before.st_mode)


def test_a_folder_that_is_read_only_is_said_before_anything_is_computed(tmp_path, monkeypatch):
    # Of the system's answer, as the superuser may write everywhere.
    allowed = os.access
    monkeypatch.setattr(
        writing.os, "access", lambda path, mode: path != tmp_path and allowed(path, mode)
    )
    with pytest.raises(PermissionError, match="its folder is read only"):
        writing.check(tmp_path / "page")


def test_standard_output_that_is_a_file_is_not_replaced(tmp_path):
    path = tmp_path / "output"
    script = "from fpemu import _writing; print('before'); _writing.write('/dev/stdout', b'new')"
    with path.open("wb") as output:
        run = subprocess.run(
            [sys.executable, "-c", script], stdout=output, stderr=subprocess.PIPE, check=False
        )
    assert b"an open file of a process" in run.stderr
    assert path.read_bytes() == b"before\n"


@pytest.mark.parametrize("ending", ["-wal", "-shm", "-journal"])
def test_files_of_a_store_are_refused(tmp_path, ending):
    store = tmp_path / "study.sqlite"
    with contextlib.closing(sqlite3.connect(store)) as connection:
        connection.execute("CREATE TABLE a (b)")
    (tmp_path / "link").symlink_to(f"study.sqlite{ending}")
    for name in (f"study.sqlite{ending}", "link"):
        with pytest.raises(OSError, match=r"belongs to the store '.*study\.sqlite'"):
            writing.write(tmp_path / name, b"new")
    writing.write(tmp_path / f"other{ending}", b"new")


def test_a_file_of_the_partial_s_name_is_nobody_s(tmp_path):
    # A link in its place would be written through.
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / "page.partial").symlink_to(victim)
    writing.write(tmp_path / "page", b"new")
    assert victim.read_bytes() == b"mine"


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "page"
    path.write_bytes(b"old")
    with contextlib.suppress(ZeroDivisionError), writing.opened(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        writing.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
