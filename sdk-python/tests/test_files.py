from __future__ import annotations

import array
import gc
import io
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from typing_extensions import assert_type

import alknet_fs
from alknet_fs._errors import make


def test_modes_and_types(branch: alknet_fs.Branch) -> None:
    with branch.open("/a", "wb") as file:
        assert isinstance(file, io.BufferedWriter)
        file.write(b"line 1\nline 2\n")
    with branch.open("/a", "rb") as file:
        assert isinstance(file, io.BufferedReader)
        assert file.readlines() == [b"line 1\n", b"line 2\n"]
    with branch.open("/a", "rb", buffering=0) as file:
        assert isinstance(file, io.RawIOBase)
        assert file.read() == b"line 1\nline 2\n"
    with branch.open("/a", "a") as file:
        assert file.tell() == 14
        assert (file.mode, file.name) == ("a", "/a")
        print("line 3", file=file)
    with branch.open("/a") as file:
        assert isinstance(file, alknet_fs.TextFile)
        assert list(file) == ["line 1\n", "line 2\n", "line 3\n"]
    with branch.open("/a", "r+b") as file:
        assert isinstance(file, io.BufferedRandom)
        file.seek(5)
        file.write(b"X")
        assert file.read(3) == b"\nli"
    with branch.open("/a", "w+") as file:
        file.write("new")
        file.seek(0)
        assert file.read() == "new"
    assert branch.read_bytes("/a") == b"new"
    with branch.open("/x", "x") as file:
        file.write("1")
    with pytest.raises(FileExistsError):
        branch.open("/x", "x")
    with pytest.raises(FileNotFoundError):
        branch.open("/missing")
    with branch.open("/a", "ab+") as file:
        file.write(b"er")
        file.seek(0)
        assert file.read() == b"newer"


def test_types_that_checkers_see(branch: alknet_fs.Branch) -> None:
    branch.write_bytes("/a", b"x")
    with branch.open("/a") as text:
        assert_type(text, alknet_fs.TextFile)
        assert_type(text.read(), str)
    with branch.open("/a", "r+t", encoding="utf-8") as text:
        assert_type(text, alknet_fs.TextFile)
    with branch.open("/a", "rb") as reader:
        assert_type(reader, alknet_fs.BufferedReader)
        assert_type(reader.read(), bytes)
    with branch.open("/a", "wb") as writer:
        assert_type(writer, alknet_fs.BufferedWriter)
    with branch.open("/a", "r+b") as both:
        assert_type(both, alknet_fs.BufferedRandom)
    with branch.open("/a", "rb", buffering=0) as raw:
        assert_type(raw, alknet_fs.File)
    with branch.path("a").open("rb") as reader:
        assert_type(reader, alknet_fs.BufferedReader)
    with branch.view() as view, view.open("/a", "rb") as reader:
        assert_type(reader, alknet_fs.BufferedReader)


@pytest.mark.parametrize("mode", ["", "rw", "rr", "b", "r+b+", "rbt", "q", "r+t+", "U"])
def test_bad_modes(branch: alknet_fs.Branch, mode: str) -> None:
    with pytest.raises(ValueError, match="invalid mode"):
        branch.open("/a", mode)


def test_encoding_and_newline(branch: alknet_fs.Branch) -> None:
    with branch.open("/a", "w", encoding="utf-16-le", newline="\r\n") as file:
        file.write("é\n")
    assert branch.read_bytes("/a") == "é\r\n".encode("utf-16-le")
    with branch.open("/a", encoding="utf-16-le") as file:
        assert file.read() == "é\n"
    with pytest.raises(ValueError, match="unbuffered text"):
        branch.open("/a", "w", buffering=0)
    with pytest.raises(ValueError, match="binary mode"):
        branch.open("/a", "rb", encoding="utf-8")
    assert branch.read_bytes("/a") != b""
    with branch.view() as view, pytest.raises(ValueError, match="binary mode"):
        view.open("/a", "rb", encoding="utf-8")
    with pytest.raises(ValueError, match="binary mode"):
        branch.open("/new", "wb", newline="")
    with pytest.raises(ValueError, match="newline"):
        branch.write_text("/new", "a\nb", newline="x")
    assert not branch.exists("/new")
    for newline in ("", "\n", "\r", "\r\n"):
        (branch / "new").write_text("a\nb", newline=newline)
        assert branch.read_bytes("/new") == b"a" + (newline or "\n").encode() + b"b"


def test_nothing_shows_before_the_close(branch: alknet_fs.Branch) -> None:
    branch.write_bytes("/a", b"old")
    with branch.open("/a", "wb") as file:
        file.write(b"new")
        file.flush()
        assert branch.read_bytes("/a") == b"old"
    assert branch.read_bytes("/a") == b"new"


@pytest.mark.parametrize(("mode", "buffering"), [("w", -1), ("wb", -1), ("wb", 0), ("r+b", -1)])
def test_an_exception_aborts(branch: alknet_fs.Branch, mode: str, buffering: int) -> None:
    branch.write_bytes("/a", b"old")
    with pytest.raises(ZeroDivisionError), branch.open("/a", mode, buffering) as file:
        file.write("new" if mode == "w" else b"new")
        raise ZeroDivisionError
    assert file.closed
    assert branch.read_bytes("/a") == b"old"


@pytest.mark.parametrize(("mode", "buffering"), [("w", -1), ("wb", -1), ("wb", 0), ("r+b", -1)])
def test_garbage_aborts_and_warns(branch: alknet_fs.Branch, mode: str, buffering: int) -> None:
    branch.write_bytes("/a", b"old")
    file = branch.open("/a", mode, buffering)
    file.write("new" if mode == "w" else b"new")
    with pytest.warns(ResourceWarning, match="never closed"):
        del file
        gc.collect()
    assert branch.read_bytes("/a") == b"old"


def test_abort(branch: alknet_fs.Branch) -> None:
    file = branch.open("/a", "w")
    file.write("x")
    file.abort()
    assert file.closed
    assert not branch.exists("/a")
    with pytest.raises(ValueError, match="closed"):
        file.write("y")


def test_readinto(branch: alknet_fs.Branch) -> None:
    data = os.urandom(300_000)
    branch.write_bytes("/a", data)
    for buffering in (0, -1, 7):
        with branch.open("/a", "rb", buffering) as file:
            whole = bytearray(400_000)
            part = memoryview(whole)[10:100_010]
            assert file.readinto(part) == 100_000
            assert whole[10:100_010] == data[:100_000]
            assert whole[:10] == bytes(10)
            numbers = array.array("d", bytes(8))
            assert file.readinto(numbers) == 8
            assert numbers.tobytes() == data[100_000:100_008]
            assert file.readinto(bytearray()) == 0
            for no in (b"fixed", memoryview(whole)[::2], "text", None):
                with pytest.raises((TypeError, BufferError)):
                    file.readinto(no)  # type: ignore[arg-type]  # pyright: ignore
            assert file.read(150_000) == data[100_008:250_008]
            assert file.tell() == 250_008
            assert file.readinto(whole) == 49_992
            assert file.readinto(whole) == 0
            assert whole[:49_992] == data[250_008:]
            file.seek(0)
            fresh = bytearray(10)
            assert file.readinto(fresh) == 10
            fresh.extend(b"not held")
    with branch.open_file("/a", write=True) as file, pytest.raises(OSError, match="reading"):
        file.readinto(bytearray(1))
    with pytest.raises(ValueError, match="closed"):
        file.readinto(bytearray(1))


def test_threads_that_read_one_file_share_its_bytes(branch: alknet_fs.Branch) -> None:
    """Each byte goes to one of them, as the position moves with the read."""
    branch.write_bytes("/a", b"".join(b"%08d" % n for n in range(262_144)))
    with branch.open("/a", "rb") as file, ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(file.read, [131_072] * 16))
    assert sorted(parts) == [
        b"".join(b"%08d" % n for n in range(first, first + 16_384))
        for first in range(0, 262_144, 16_384)
    ]


def test_raw_files(branch: alknet_fs.Branch) -> None:
    with branch.open_file("/a", read=True, write=True, create=True, mode=0o600) as file:
        assert file.write(b"0123456789") == 10
        assert file.pread(3, 2) == b"234"
        assert file.pwrite(b"xy", 4) == 2
        assert file.tell() == 10
        assert file.seek(-4, 2) == 6
        assert file.read(2) == b"67"
        assert file.truncate() == 8
        assert file.stat().size == 8
        file.set_attrs(mtime_ns=5)
        file.sync()
        closed = file.commit()
    assert closed is not None
    assert (closed.path, closed.size) == ("/a", 8)
    assert branch.stat("/a").hash == closed.hash
    assert branch.stat("/a").mtime_ns == 5
    assert branch.read_bytes("/a") == b"0123xy67"
    with branch.open_file("/a", read=True) as file:
        buffer = bytearray(5)
        assert file.readinto(buffer) == 5
        assert buffer == b"0123x"
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"")
        with pytest.raises(ValueError, match="negative"):
            file.seek(-1)
    with pytest.raises(alknet_fs.InvalidInput):
        branch.open_file("/a")


def test_of_two_that_write_the_last_close_wins(branch: alknet_fs.Branch) -> None:
    branch.write_text("/a", "0123456789")
    with branch.open("/a", "r+") as last, branch.open("/a", "r+") as first:
        first.write("xx")
        last.seek(5)
        last.write("yy")
    assert branch.read_text("/a") == "01234yy789"
    with branch.open("/a", "a") as last, branch.open("/a", "a") as first:
        first.write("first")
        last.write("last")
    assert branch.read_text("/a") == "01234yy789firstlast"


def test_a_file_that_is_renamed_while_it_is_written(branch: alknet_fs.Branch) -> None:
    branch.write_text("/a", "old")
    with branch.open("/a", "r+") as file:
        file.write("new")
        branch.rename("/a", "/b")
    assert (branch.read_text("/a"), branch.read_text("/b")) == ("new", "old")


def test_exclusive(branch: alknet_fs.Branch) -> None:
    with (
        branch.open_file("/a", write=True, create=True, exclusive=True, owner="first"),
        pytest.raises(alknet_fs.Locked, match="first"),
    ):
        branch.open_file("/a", write=True, create=True, exclusive=True)


def test_a_large_file(branch: alknet_fs.Branch) -> None:
    data = bytes(range(256)) * 8192
    with branch.open("/big", "wb") as file:
        for at in range(0, len(data), 100_000):
            file.write(data[at : at + 100_000])
    assert branch.read_bytes("/big") == data
    with branch.open("/big", "rb") as file:
        file.seek(1_000_000)
        assert file.read(10) == data[1_000_000:1_000_010]
    with branch.view() as view, view.open("/big", "rb") as file:
        assert file.read() == data


class Refusal:
    """Makes the raw file below refuse what comes next."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str, error: BaseException) -> None:
        self.left = 1
        original = getattr(alknet_fs.File, method)

        def refusing(file: alknet_fs.File, *args: object) -> object:
            if self.left:
                self.left -= 1
                raise error
            return original(file, *args)

        monkeypatch.setattr(alknet_fs.File, method, refusing)


BUSY = make("Busy", "try again", "/a", "write")


@pytest.mark.parametrize("error", [BUSY, KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("mode", ["w", "wb", "r+b", "r+"])
def test_a_failed_flush_commits_nothing(
    branch: alknet_fs.Branch, mode: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    branch.write_bytes("/a", b"old")
    file = branch.open("/a", mode)
    file.write("x" * 10 if "b" not in mode else b"x" * 10)
    Refusal(monkeypatch, "write", error)
    with pytest.raises(type(error)):
        file.close()
    assert branch.read_bytes("/a") == b"old"
    if error is BUSY and "b" in mode:
        assert not file.closed
        file.close()
        assert branch.read_bytes("/a") == b"x" * 10
    file.abort()
    file.close()


@pytest.mark.parametrize("mode", ["w", "wb", "r+b"])
def test_a_failed_commit_can_be_tried_again(
    branch: alknet_fs.Branch, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    branch.write_bytes("/a", b"old")
    file = branch.open("/a", mode)
    file.write("new" if mode == "w" else b"new")
    Refusal(monkeypatch, "commit", BUSY)
    with pytest.raises(alknet_fs.Busy):
        file.close()
    assert not file.closed
    assert branch.read_bytes("/a") == b"old"
    file.close()
    assert file.closed
    assert branch.read_bytes("/a") == b"new"


@pytest.mark.parametrize("method", ["write", "commit"])
@pytest.mark.parametrize("mode", ["w", "wb", "r+b"])
def test_a_block_whose_end_fails_aborts(
    branch: alknet_fs.Branch, mode: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    branch.write_bytes("/a", b"old")
    with pytest.raises(alknet_fs.Busy), branch.open("/a", mode) as file:
        file.write("new" if mode == "w" else b"new")
        Refusal(monkeypatch, method, BUSY)
    assert file.closed
    assert branch.read_bytes("/a") == b"old"


def test_an_unknown_encoding(branch: alknet_fs.Branch) -> None:
    with pytest.raises(LookupError, match="nonsense"):
        branch.open("/a", "w", encoding="nonsense")
    assert not branch.exists("/a")
    assert branch.sessions() == []
