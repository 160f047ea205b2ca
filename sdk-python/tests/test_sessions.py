from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import alknet_fs


def test_write_anywhere(branch: alknet_fs.Branch) -> None:
    branch.write_bytes("/a", b"0123456789")
    with branch.open_session("/a") as session:
        assert session.pwrite(b"xy", 4) == 2
        assert session.append(b"end") == 10
        assert (session.size, session.path, session.closed) == (13, "/a", False)
        assert session.pread(5, 3) == b"3xy67"
        assert session.pread(100, 100) == b""
        session.truncate(12)
        session.sync()
        assert branch.read_bytes("/a") == b"0123456789"
        closed = session.close(mode=0o600, mtime_ns=5)
    assert (closed.path, closed.size) == ("/a", 12)
    assert branch.read_bytes("/a") == b"0123xy6789en"
    found = branch.stat("/a")
    assert (found.hash, found.mode, found.mtime_ns) == (closed.hash, 0o600, 5)
    assert session.closed
    with pytest.raises(alknet_fs.AlkError, match="closed"):
        session.append(b"x")


def test_what_is_not_closed_is_aborted(branch: alknet_fs.Branch) -> None:
    with pytest.raises(ZeroDivisionError), branch.open_session("/a") as session:
        session.append(b"x")
        raise ZeroDivisionError
    session = branch.open_session("/a")
    session.append(b"x")
    with pytest.warns(ResourceWarning, match="never closed"):
        del session
        gc.collect()
    session = branch.open_session("/a")
    session.abort()
    assert branch.listdir() == []
    assert branch.sessions() == []


def test_options(branch: alknet_fs.Branch) -> None:
    with pytest.raises(FileNotFoundError):
        branch.open_session("/missing", create=False)
    branch.write_bytes("/a", b"old")
    with pytest.raises(FileExistsError):
        branch.open_session("/a", create_new=True)
    with branch.open_session("/a", truncate=True, mode=0o600) as session:
        assert session.size == 0
    assert branch.read_bytes("/a") == b""
    with (
        branch.open_session("/a", exclusive=True, owner="first"),
        pytest.raises(alknet_fs.Locked, match="first"),
    ):
        branch.open_session("/a", exclusive=True)


def test_detach_and_resume(store: alknet_fs.Store) -> None:
    branch = store.branch()
    branch.write_bytes("/a", b"base")
    session = branch.open_session("/a", owner="agent", exclusive=True)
    session.append(b" more")
    (info,) = branch.sessions()
    assert (info.id, info.bucket, info.branch, info.path) == (session.id, "default", "main", "/a")
    assert (info.owner, info.exclusive, info.staging, info.alive) == ("agent", True, "rows", True)
    assert (info.staged, info.base) == (5, 4)
    assert info.created_ns <= info.touched_ns
    assert store.sessions() == [info]
    assert branch.fork("other").sessions() == []
    with pytest.raises(alknet_fs.Locked):
        store.resume_session(session.id)
    number = session.detach()
    assert session.closed
    assert not store.sessions()[0].alive
    with pytest.raises(alknet_fs.BadHandle, match="detached"):
        session.append(b"x")
    resumed = store.resume_session(number)
    assert resumed.pread(100, 0) == b"base more"
    resumed.close()
    assert branch.read_bytes("/a") == b"base more"
    with pytest.raises(FileNotFoundError):
        store.resume_session(number)


def test_resume_in_another_store_object(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with alknet_fs.open(path) as store:
        session = store.branch().open_session("/big")
        session.append(b"x" * 1_000_000)
        number = session.detach()
    with alknet_fs.open(path) as store:
        (info,) = store.sessions()
        assert (info.staging, info.staged) == ("file", 1_000_000)
        with store.resume_session(number) as session:
            session.append(b"y")
        assert store.branch().stat("/big").size == 1_000_001


def test_abort_from_outside(store: alknet_fs.Store) -> None:
    session = store.branch().open_session("/a")
    with pytest.raises(alknet_fs.Locked):
        store.abort_session(session.id)
    store.abort_session(session.id, force=True)
    with pytest.raises(FileNotFoundError):
        session.close()
    with pytest.raises(FileNotFoundError):
        store.abort_session(session.id)
    session.abort()


@pytest.mark.parametrize("offset", [2**63, 2**64, 10**30])
def test_far_offsets(branch: alknet_fs.Branch, offset: int) -> None:
    branch.write_bytes("/a", b"abc")
    with branch.open_session("/a") as session:
        with pytest.raises(alknet_fs.TooLarge):
            session.pwrite(b"x", offset)
        with pytest.raises(alknet_fs.TooLarge):
            session.truncate(offset)
        assert session.pread(5, offset) == b""
        assert session.pread(offset, 1) == b"bc"
        with pytest.raises(ValueError, match="negative"):
            session.pread(1, -1)
    with branch.open_file("/a", read=True, write=True) as file:
        with pytest.raises(alknet_fs.TooLarge):
            file.pwrite(b"x", offset)
        with pytest.raises(alknet_fs.TooLarge):
            file.truncate(offset)
        assert file.pread(5, offset) == b""


MORE_THAN_MEMORY = """
import alknet_fs, resource
resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))
with alknet_fs.memory().branch().open_session("/a") as session:
    session.truncate(2**40)
    try:
        session.pread(2**40, 0)
    except MemoryError:
        print("refused")
    assert session.pread(3, 2**39) == bytes(3)
    session.truncate(1)
"""


def test_more_than_there_is_memory(branch: alknet_fs.Branch) -> None:
    pytest.importorskip("resource")
    program = [sys.executable, "-c", MORE_THAN_MEMORY]
    assert subprocess.run(program, check=True, capture_output=True).stdout == b"refused\n"
    with branch.open_session("/a") as session, pytest.raises(alknet_fs.TooLarge):
        session.truncate(2**60)


def test_closing_the_store_gives_back_what_is_held(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = alknet_fs.open(path)
    branch = store.branch()
    branch.write_bytes("/a", b"old")
    held: list[Any] = [
        branch.open_session("/a", exclusive=True),
        branch.open_file("/b", write=True, create=True, exclusive=True),
        branch.open("/c", "w"),
        branch.view(),
        branch.open_reader("/a"),
        branch.open("/a", "rb"),
        branch.watch(),
        branch.batch(),
    ]
    held[0].append(b"x" * 400_000)
    held[2].write("new")
    files = Path("/proc/self/fd")

    def opened() -> list[str]:
        links: list[str] = []
        for link in files.iterdir():
            with contextlib.suppress(FileNotFoundError):
                links.append(os.readlink(link))
        return [link for link in links if link.startswith(str(path.resolve()))]

    assert not files.exists() or opened()
    copy = alknet_fs.Store(store)
    store.close()
    store.close()
    assert copy.closed
    assert not files.exists() or opened() == []
    with alknet_fs.open(path) as other:
        assert other.sessions() == []
        other.branch().open_session("/a", exclusive=True).abort()
        other.branch().open_file("/b", write=True, create=True, exclusive=True).abort()
        assert other.branch().listdir() == ["a"]
    for use in (held[0].close, held[1].close, held[3].listdir, held[5].read, held[7].commit):
        with pytest.raises(alknet_fs.BadHandle):
            use()
    with pytest.warns(ResourceWarning):
        held.clear()
        gc.collect()
    assert len({branch, alknet_fs.Branch(branch)}) == 1


def test_closing_the_store_waits_for_nobody(tmp_path: Path) -> None:
    """A call that goes on in another thread keeps what it needs, and ends as it would have."""
    store = alknet_fs.open(tmp_path / "store")
    branch = store.branch()
    data = os.urandom(20_000_000)
    with ThreadPoolExecutor(1) as pool:
        for number in range(6):
            path, size = f"/{number}", 4_000_000 * number
            again = alknet_fs.open(tmp_path / "store")
            write = pool.submit(again.branch().write_bytes, path, data[:size])
            again.close()
            try:
                assert write.result() == size
            except alknet_fs.BadHandle:
                assert not branch.exists(path)
            else:
                assert branch.stat(path).size == size
