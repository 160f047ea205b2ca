from __future__ import annotations

import pathlib

import pytest

import alknet_fs


def test_all_at_once(branch: alknet_fs.Branch) -> None:
    branch.write_bytes("/old", b"x")
    with branch.batch() as batch:
        batch.makedirs("/a/b")
        batch.makedirs("/a/b", exist_ok=True)
        batch.mkdir("/d", 0o700)
        assert batch.write_bytes("/a/b/f", b"1234", mode=0o600) == 4
        assert batch.write_text("/a/t", "é\n", newline="\r\n") == 2
        batch.symlink("t", "/a/l", mtime_ns=9)
        batch.rename("/old", "/new")
        batch.copy("/new", "/copy")
        batch.chmod("/copy", 0o640)
        batch.utime("/copy", ns=(0, 7))
        batch.chown("/copy", 5, 6)
        batch.rmdir("/d")
        batch.unlink("/new")
        assert branch.listdir() == ["old"]
        assert len(batch) == 14
        assert batch.content_bytes == 8
        assert not batch.closed
    assert batch.closed
    assert branch.listdir() == ["a", "copy"]
    assert branch.read_bytes("/a/t") == "é\r\n".encode()
    found = branch.stat("/copy")
    assert (found.mode, found.mtime_ns, found.uid, found.gid) == (0o640, 7, 5, 6)
    assert branch.stat("/a/b/f").mode == 0o600
    assert branch.lstat("/a/l").mtime_ns == 9


def test_an_exception_aborts(branch: alknet_fs.Branch) -> None:
    with pytest.raises(ZeroDivisionError), branch.batch() as batch:
        batch.write_bytes("/a", b"x" * 1_000_000)
        raise ZeroDivisionError
    assert branch.listdir() == []
    with pytest.raises(alknet_fs.BadHandle, match="committed or aborted"):
        batch.commit()
    with pytest.raises(alknet_fs.BadHandle):
        len(batch)
    batch.abort()


def test_one_failure_undoes_all(branch: alknet_fs.Branch) -> None:
    with pytest.raises(FileNotFoundError) as caught, branch.batch() as batch:
        batch.write_bytes("/a", b"x")
        batch.remove("/missing")
        batch.write_bytes("/b", b"x")
    assert caught.value.filename == "/missing"
    assert batch.closed
    assert branch.listdir() == []


def test_wrong_at_once(branch: alknet_fs.Branch) -> None:
    branch.write_bytes("/a", b"old")
    with branch.batch() as batch:
        with pytest.raises(alknet_fs.InvalidPath):
            batch.write_bytes("/x\0", b"")
        with pytest.raises(ValueError, match="cannot both"):
            batch.write_bytes("/a", b"", create=False, replace=False)
        batch.write_bytes(pathlib.PurePosixPath("/b"), b"x", replace=False)
        batch.commit()
    assert branch.listdir() == ["a", "b"]
    with pytest.raises(FileExistsError), branch.batch() as batch:
        batch.write_bytes("/a", b"new", replace=False)
    with pytest.raises(FileExistsError), branch.batch() as batch:
        batch.makedirs("/a")
    assert branch.read_bytes("/a") == b"old"


def test_empty(branch: alknet_fs.Branch) -> None:
    with branch.batch() as batch:
        assert batch
        assert len(batch) == 0


def test_dropped(branch: alknet_fs.Branch) -> None:
    branch.batch().write_bytes("/a", b"x")
    assert branch.listdir() == []


def test_a_closed_store_is_told_of(tmp_path: pathlib.Path) -> None:
    store = alknet_fs.open(tmp_path / "store")
    with pytest.raises(alknet_fs.BadHandle), store.branch().batch() as batch:
        batch.write_bytes("/a", b"x")
        store.close()
        assert not batch.closed
    with pytest.raises(ZeroDivisionError), alknet_fs.memory() as other, other.branch().batch():
        other.close()
        raise ZeroDivisionError
    assert not alknet_fs.open(tmp_path / "store").branch().exists("/a")
