# pyright: basic
from __future__ import annotations

import contextlib
import io
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
from fsspec.callbacks import Callback
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.tests.abstract import (
    AbstractCopyTests,
    AbstractFixtures,
    AbstractGetTests,
    AbstractOpenTests,
    AbstractPipeTests,
    AbstractPutTests,
)

import alknet_fs
from alknet_fs.fsspec import AlkFileSystem

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class AlkFixtures(AbstractFixtures):
    @pytest.fixture
    def fs(self, tmp_path: Path) -> AlkFileSystem:
        return AlkFileSystem(tmp_path / "store", create=True)

    @pytest.fixture
    def fs_path(self) -> str:
        return "default/main"

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return lambda *parts: "/".join(parts)


class TestCopy(AbstractCopyTests, AlkFixtures):
    pass


class TestGet(AbstractGetTests, AlkFixtures):
    pass


class TestOpen(AbstractOpenTests, AlkFixtures):
    pass


class TestPipe(AbstractPipeTests, AlkFixtures):
    pass


class TestPut(AbstractPutTests, AlkFixtures):
    pass


@pytest.fixture(params=["disk", "memory"])
def fs(request: pytest.FixtureRequest, tmp_path: Path) -> AlkFileSystem:
    if request.param == "disk":
        return AlkFileSystem(tmp_path / "store", branch="main", create=True)
    return AlkFileSystem(alknet_fs.memory(), branch="main")


@pytest.fixture
def branch(fs: AlkFileSystem) -> alknet_fs.Branch:
    return fs.store.branch()


def test_the_levels_above_a_tree_are_directories(tmp_path: Path) -> None:
    store = alknet_fs.create(tmp_path / "store")
    store.create_bucket("other").branch().fork("agent")
    fs = AlkFileSystem(store)
    fs.pipe_file("other/agent/a/b.txt", b"b")
    assert fs.ls("", detail=False) == ["default", "other"]
    assert fs.ls("alkfs://other", detail=False) == ["other/main", "other/agent"]
    assert fs.ls("other/agent/a", detail=False) == ["other/agent/a/b.txt"]
    assert fs.find("") == ["other/agent/a/b.txt"]
    assert fs.glob("alkfs://*/*/a/*.txt") == ["other/agent/a/b.txt"]
    for path in ("", "other", "other/agent", "other/agent/a"):
        assert fs.isdir(path)
        assert not fs.isfile(path)
        assert fs.info(path) | {"name": path, "type": "directory"} == fs.info(path)
    for path in (
        "missing",
        "missing/main",
        "default/missing",
        "default/missing/a",
        "default/main/a",
    ):
        assert not fs.exists(path)
        with pytest.raises(FileNotFoundError):
            fs.info(path)
    with pytest.raises(IsADirectoryError):
        fs.cat_file("other/agent")
    for change in (fs.mkdir, fs.rm_file, fs.touch, fs.makedirs):
        with pytest.raises(alknet_fs.Unsupported):
            change("new")
    with pytest.raises(alknet_fs.Unsupported):
        fs.rm("other", recursive=True)
    fs.makedirs("other/agent", exist_ok=True)
    with pytest.raises(FileExistsError):
        fs.makedirs("other/agent")
    inside = AlkFileSystem(store, bucket="other")
    assert inside.cat("agent/a/b.txt") == b"b"
    assert inside.ls("", detail=False) == ["main", "agent"]


def test_a_snapshot_is_read_by_url_and_by_keyword(fs: AlkFileSystem) -> None:
    fs.pipe_file("/a.txt", b"old")
    fs.store.branch().snapshot("before")
    fs.pipe_file("/a.txt", b"new")
    by_url = AlkFileSystem(fs.store)
    assert by_url.cat_file("default/main@before/a.txt") == b"old"
    assert by_url.cat_file("default/main/a.txt") == b"new"
    old = AlkFileSystem(fs.store, branch="main", snapshot="before")
    assert old.ls("", detail=False) == ["a.txt"]
    with old.open("a.txt") as file:
        assert file.read() == b"old"
    for change in (old.touch, old.rm_file, old.mkdir, lambda path: old.open(path, "wb")):
        with pytest.raises(alknet_fs.ReadOnly):
            change("new.txt")
    with pytest.raises(FileNotFoundError):
        AlkFileSystem(fs.store, branch="main", snapshot="never").ls("")
    with pytest.raises(ValueError, match="without branch"):
        AlkFileSystem(fs.store, snapshot="before")


def test_the_store_is_named_by_keyword_or_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALKFS_STORE", raising=False)
    with pytest.raises(ValueError, match="no store is named"):
        AlkFileSystem()
    with pytest.raises(alknet_fs.NotAStore):
        fsspec.filesystem("alkfs", store=tmp_path / "missing")
    assert not (tmp_path / "missing").exists()
    for name in ("one", "two"):
        alknet_fs.create(tmp_path / name).branch().write_text("/name.txt", name)
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        monkeypatch.setenv("ALKFS_STORE", name)
        assert AlkFileSystem().cat_file("default/main/name.txt") == name.encode()
    one = AlkFileSystem("one")
    assert one is AlkFileSystem(store=tmp_path / "one")
    assert one.store is AlkFileSystem("one", branch="main").store
    assert one != AlkFileSystem("two")
    assert one.fsid != AlkFileSystem("two").fsid
    assert AlkFileSystem(alknet_fs.memory()) != AlkFileSystem(alknet_fs.memory())


def test_a_filesystem_and_its_readers_are_pickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fs = AlkFileSystem("store", branch="main", create=True)
    fs.pipe_file("a.txt", b"0123456789")
    assert pickle.loads(pickle.dumps(fs)) is fs
    with fs.open("a.txt") as file:
        file.seek(4)
        with pickle.loads(pickle.dumps(file)) as again:
            assert again.read() == b"456789"
    program = "import pickle, sys; print(pickle.load(sys.stdin.buffer).cat_file('a.txt').decode())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps(fs),
        stdout=subprocess.PIPE,
        cwd="/",
        check=True,
    )
    assert done.stdout == b"0123456789\n"
    assert AlkFileSystem.from_json(fs.to_json()) is fs


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_the_child_of_a_fork_opens_the_store_again(tmp_path: Path) -> None:
    fs = AlkFileSystem(tmp_path / "store", branch="main", create=True)
    fs.pipe_file("a.txt", b"parent")
    child = os.fork()
    if child == 0:
        try:
            assert fs.cat_file("a.txt") == b"parent"
            fs.pipe_file("a.txt", b"child")
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert fs.cat_file("a.txt") == b"child"


@pytest.mark.parametrize("block", [1, 7, 70_000])
def test_files_read_and_seek_as_local_ones(fs: AlkFileSystem, tmp_path: Path, block: int) -> None:
    data = os.urandom(100_000)
    (tmp_path / "local").write_bytes(data)
    fs.pipe_file("a", data)
    with fs.open("a") as file, (tmp_path / "local").open("rb") as local:
        assert file.size == len(data)
        assert isinstance(file, io.BufferedReader)
        assert (file.readable(), file.writable(), file.seekable()) == (True, False, True)
        for place in ((0, 0), (-1, 1), (99_990, 0), (-3, 2), (5, 0), (block, 1), (200_000, 0)):
            assert file.seek(*place) == local.seek(*place)
            assert file.read(block) == local.read(block)
            assert file.tell() == local.tell()
        buffers = bytearray(block), bytearray(block)
        assert file.readinto(buffers[0]) == local.readinto(buffers[1])
        assert buffers[0] == buffers[1]
        assert file.readlines() == local.readlines()
    assert fs.head("a", 10) == data[:10]
    assert fs.tail("a", 10) == data[-10:]
    assert fs.read_block("a", 10, 20) == data[10:30]


def test_threads_that_read_one_file_share_its_bytes(fs: AlkFileSystem) -> None:
    parts = [b"%08d" % n * 16_384 for n in range(64)]
    fs.pipe_file("a", b"".join(parts))
    with fs.open("a", "rb") as file, ThreadPoolExecutor(8) as pool:
        read = list(pool.map(file.read, [131_072] * 64))
    assert sorted(read) == parts


def test_every_mode(fs: AlkFileSystem) -> None:
    with pytest.raises(FileNotFoundError):
        fs.open("a", "r+b")
    with fs.open("a", "ab") as file:
        file.write(b"01")
    with fs.open("a", "ab") as file:
        assert file.tell() == 2
        file.write(b"23456789")
    with fs.open("a", "r+b") as file:
        file.seek(4)
        file.write(b"xx")
        assert file.read() == b"6789"
    assert fs.cat_file("a") == b"0123xx6789"
    with pytest.raises(FileExistsError):
        fs.open("a", "xb")
    with fs.open("b", "xb") as file:
        file.write(b"b")
    with fs.open("b", "w+b") as file:
        file.write(b"bb")
        file.seek(0)
        assert file.read() == b"bb"
    with fs.open("c.txt", "w", newline="\r\n") as file:
        file.write("ä\n")
    assert fs.cat_file("c.txt") == "ä\r\n".encode()
    assert fs.read_text("c.txt") == "ä\n"
    with pytest.raises(ValueError, match="invalid mode"):
        fs.open("a", "rwb")
    with pytest.raises(IsADirectoryError):
        fs.open("", "rb")


@pytest.mark.parametrize("mode", ["wb", "ab", "r+b", "w"])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_block_left_by_an_exception_changes_nothing(
    fs: AlkFileSystem, mode: str, compression: str | None
) -> None:
    if compression and mode == "r+b":
        pytest.skip("no compressor updates in place")
    fs.pipe_file("a", b"before")
    with pytest.raises(RuntimeError), fs.open("a", mode, compression=compression) as file:
        file.write("after" if mode == "w" else b"after")
        raise RuntimeError
    assert fs.cat_file("a") == b"before"


def test_a_file_that_nobody_closes_changes_nothing(fs: AlkFileSystem) -> None:
    fs.pipe_file("a", b"before")
    with pytest.warns(ResourceWarning, match="never closed"):
        fs.open("a", "wb").write(b"after")
    assert fs.cat_file("a") == b"before"


def test_autocommit_is_put_off(fs: AlkFileSystem) -> None:
    for finish, expected in (("commit", True), ("discard", False)):
        with fs.open(finish, "wb", autocommit=False) as file:
            file.write(b"data")
        assert not fs.exists(finish)
        getattr(file, finish)()
        assert fs.exists(finish) == expected
    for number, compression in enumerate((None, "gzip")):
        for finish, expected in (("commit", True), ("discard", False)):
            name = f"{finish}-{number}"
            with fs.open(name, "w", autocommit=False, compression=compression) as file:
                file.write("text")
            assert not fs.exists(name)
            getattr(file, finish)()
            assert fs.exists(name) == expected
            assert file.closed
        assert fs.open(f"commit-{number}", "r", compression=compression).read() == "text"
        with fs.open("b", "wb", autocommit=False, compression=compression) as file:
            file.write(b"data")
        file.discard()
        assert not fs.exists("b")
    fs.open("c", "w", autocommit=False).commit()
    assert fs.size("c") == 0


@pytest.mark.parametrize("compression", ["gzip", "bz2", "xz", "infer"])
@pytest.mark.parametrize("mode", ["", "b"])
def test_compression(fs: AlkFileSystem, compression: str, mode: str) -> None:
    lines = [f"line {i}\n" for i in range(1000)]
    with fs.open("a.gz", f"w{mode}", compression=compression) as file:
        file.writelines([line.encode() for line in lines] if mode else lines)
    assert len(fs.cat_file("a.gz")) < 5000
    with fs.open("a.gz", f"r{mode}", compression=compression) as file:
        assert list(file) == ([line.encode() for line in lines] if mode else lines)


def test_ranges(fs: AlkFileSystem) -> None:
    fs.pipe({"a": b"0123456789", "b": b"abc"})
    whole = b"0123456789"
    for start in (None, 0, 3, 20, -4, -20):
        for end in (None, 0, 5, 20, -2, -20):
            assert fs.cat_file("a", start, end) == whole[start:end]
    assert fs.cat_ranges(["a", "b", "a"], [1, 0, -2], [3, 9, None]) == [b"12", b"abc", b"89"]
    assert fs.cat_ranges(["a", "b"], 0, 2, max_gap=5) == [b"01", b"ab"]
    found, missing = fs.cat_ranges(["a", "none"], 0, 1)
    assert found == b"0"
    assert isinstance(missing, FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges(["none"], 0, 1, on_error="raise")
    assert fs.cat(["a", "b"]) == {"a": whole, "b": b"abc"}


def test_info_and_the_like(fs: AlkFileSystem, branch: alknet_fs.Branch) -> None:
    fs.pipe_file("dir/a", b"data")
    branch.utime("/dir/a", ns=(0, 1_500_000_000_500_000_000))
    info = fs.info("dir/a")
    assert info == fs.ls("dir")[0] == fs.ls("dir/a")[0]
    assert (info["name"], info["type"], info["size"]) == ("dir/a", "file", 4)
    assert info["hash"] == branch.stat("/dir/a").hash
    assert info["mode"] & 0o777 == 0o644
    assert fs.modified("dir/a").isoformat() == "2017-07-14T02:40:00.500000+00:00"
    assert fs.created("dir/a") > fs.modified("dir/a")
    assert fs.checksum("dir/a") == int(fs.ukey("dir/a"), 16) == int(info["hash"], 16)
    fs.cp_file("dir/a", "dir/b")
    assert fs.ukey("dir/b") == fs.ukey("dir/a")
    assert fs.ukey("dir") != fs.ukey("dir/a")
    assert fs.checksum("dir") == fs.checksum("dir")
    fs.touch("dir/a", truncate=False)
    assert fs.cat_file("dir/a") == b"data"
    assert fs.modified("dir/a").year > 2017
    fs.touch("dir/a")
    assert fs.size("dir/a") == 0
    assert fs.du("") == 4
    assert list(fs.walk("")) == [("", ["dir"], []), ("dir", [], ["a", "b"])]


def test_links(fs: AlkFileSystem, branch: alknet_fs.Branch, tmp_path: Path) -> None:
    fs.pipe_file("dir/a", b"data")
    branch.symlink("a", "/dir/to_file")
    branch.symlink("/dir", "/dir/to_dir")
    branch.symlink("nowhere", "/dir/dangling")
    kinds = {info["name"]: (info["type"], info["islink"]) for info in fs.ls("dir")}
    assert kinds == {
        "dir/a": ("file", False),
        "dir/dangling": ("other", True),
        "dir/to_dir": ("other", True),
        "dir/to_file": ("file", True),
    }
    assert fs.info("dir/to_file")["destination"] == "a"
    assert fs.isdir("dir/to_dir")
    assert fs.lexists("dir/dangling")
    assert not fs.exists("dir/dangling")
    assert len(fs.find("")) == 4
    fs.rm("dir/to_dir", recursive=True)
    branch.symlink("/loop", "/loop")
    branch.symlink("loop", "/dir/loop")
    assert fs.find("") == ["dir/a", "dir/dangling", "dir/loop", "dir/to_file", "loop"]
    assert fs.glob("l*") == ["loop"]
    assert not fs.exists("loop")
    assert not fs.isfile("loop")
    assert not fs.isdir("loop")
    assert fs.islink("loop")
    fs.get(["dir/a"], [str(tmp_path / "got")])
    assert (tmp_path / "got").read_bytes() == b"data"
    branch.remove("/dir/dangling")
    with pytest.raises(alknet_fs.TooManyLinks):
        fs.get("", str(tmp_path / "all"), recursive=True)
    fs.rm(["loop", "dir/loop"])
    fs.rm("dir/to_file")
    assert fs.cat_file("dir/a") == b"data"


def test_moves(fs: AlkFileSystem, branch: alknet_fs.Branch) -> None:
    fs.pipe({"a": b"a", "b": b"b", "dir/sub/c": b"c", "dir/d": b"d"})
    fs.mv("a", "new/a")
    fs.mv("b", "dir")
    fs.mv("dir", "moved", recursive=True)
    fs.mv("moved/*", "out/", recursive=True)
    assert fs.find("") == ["new/a", "out/b", "out/d", "out/sub/c"]
    fs.mv("out/b", "new/a")
    assert fs.cat_file("new/a") == b"b"
    fs.mv("new/a", "new/a")
    assert fs.exists("new/a")
    with pytest.raises(FileNotFoundError):
        fs.mv("none", "other")
    branch.fork("agent")
    every = AlkFileSystem(fs.store)
    every.mv("default/main/new/a", "default/agent/taken")
    assert not fs.exists("new/a")
    assert every.cat_file("default/agent/taken") == b"b"
    every.copy("default/main/out", "default/agent/copy", recursive=True)
    assert every.cat_file("default/agent/copy/sub/c") == b"c"
    fs.mv(["out/d", "out/sub/c"], ["1", "two/2"])
    assert fs.find("") == ["1", "two/2"]
    every.mv(["default/main/1", "default/main/two/2"], ["default/agent/1", "default/main/3"])
    assert fs.find("") == ["3"]
    assert every.cat_file("default/agent/1") == b"d"


def test_removals(fs: AlkFileSystem) -> None:
    fs.pipe({"a": b"", "dir/b": b"", "dir/sub/c": b"", "dir/sub/d": b"", "e": b""})
    with pytest.raises(IsADirectoryError):
        fs.rm("dir")
    with pytest.raises(FileNotFoundError):
        fs.rm(["a", "none"])
    assert fs.exists("a")
    with pytest.raises(OSError, match="not empty"):
        fs.rmdir("dir")
    fs.rm("dir/sub/*")
    fs.rmdir("dir/sub")
    fs.pipe_file("dir-2/a", b"")
    fs.rm(["a", "dir", "dir-2", "dir/b"], recursive=True)
    assert fs.find("") == ["e"]
    fs.pipe({"1": b"", "[1]": b""})
    fs.rm("[1]")
    assert fs.find("") == ["1", "e"]
    with pytest.raises(alknet_fs.InUse):
        fs.rm("", recursive=True)


def test_transfers_report_progress(fs: AlkFileSystem, tmp_path: Path) -> None:
    class Seen(Callback):
        def call(self, *args: Any, **kwargs: Any) -> None:
            self.seen = (self.value, self.size)

    data = os.urandom(3_000_000)
    (tmp_path / "local").write_bytes(data)
    up, down = Seen(), Seen()
    fs.put_file(tmp_path / "local", "up/a", callback=up)
    assert fs.cat_file("up/a") == data
    fs.get_file("up/a", tmp_path / "down" / "b", callback=down)
    assert (tmp_path / "down" / "b").read_bytes() == data
    assert up.seen == down.seen == (len(data), len(data))
    out = io.BytesIO()
    fs.get_file("up/a", out)
    assert out.getvalue() == data
    with pytest.raises(FileExistsError):
        fs.put_file(tmp_path / "local", "up/a", mode="create")


def test_without_auto_mkdir_parents_must_exist(tmp_path: Path) -> None:
    store = alknet_fs.memory()
    fs = AlkFileSystem(store, branch="main", auto_mkdir=False)
    with pytest.raises(FileNotFoundError):
        fs.pipe_file("dir/a", b"")
    with pytest.raises(FileNotFoundError):
        fs.open("dir/a", "wb")
    with pytest.raises(FileNotFoundError):
        fs.mkdir("dir/sub", create_parents=False)
    fs.mkdir("dir/sub")
    with pytest.raises(FileExistsError):
        fs.mkdir("dir/sub")
    fs.pipe_file("dir/sub/a", b"")
    assert fs.find("") == ["dir/sub/a"]


def test_a_transaction_is_one_commit(fs: AlkFileSystem, branch: alknet_fs.Branch) -> None:
    fs.pipe({"old": b"old", "log": b"1", "gone": b""})
    before = branch.tree_hash()

    def work() -> None:
        with fs.open("new/a", "wb") as file:
            file.write(b"a")
        with fs.open("log", "ab") as file:
            file.write(b"2")
        with fs.open("text", "w") as file:
            file.write("text")
        fs.mv("new/a", "new/b")
        fs.cp_file("old", "copy")
        fs.mkdir("dir")
        fs.rm("gone")
        unclosed = fs.open("open", "wb")
        unclosed.write(b"open")
        assert branch.tree_hash() == before

    with pytest.raises(RuntimeError), fs.transaction:
        work()
        raise RuntimeError
    assert branch.tree_hash() == before
    with fs.transaction:
        work()
    assert {path: fs.cat_file(path) for path in fs.find("")} == {
        "copy": b"old",
        "log": b"12",
        "new/b": b"a",
        "old": b"old",
        "open": b"open",
        "text": b"text",
    }
    assert fs.isdir("dir")
    fs.start_transaction()
    fs.pipe_file("later", b"")
    assert not fs.exists("later")
    fs.end_transaction()
    assert fs.exists("later")


def test_a_transaction_that_cannot_be_committed_changes_nothing(fs: AlkFileSystem) -> None:
    fs.pipe_file("a", b"a")
    before = fs.find("")
    with pytest.raises(FileExistsError), fs.transaction:
        fs.pipe_file("b", b"b")
        with fs.open("new", "xb") as file:
            file.write(b"mine")
        fs.store.branch().write_bytes("/new", b"theirs")
    assert fs.find("") == [*before, "new"]
    fs.pipe_file("c", b"")
    assert fs.exists("c")


@pytest.mark.parametrize("mode", ["r+b", "ab", "wb", "r+", "w"])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_file_left_open_ends_with_its_transaction(
    fs: AlkFileSystem, branch: alknet_fs.Branch, mode: str, compression: str | None
) -> None:
    if compression and "+" in mode:
        pytest.skip("no compressor updates in place")
    fs.pipe_file("a", b"before")
    with pytest.raises(RuntimeError), fs.transaction:
        lost = fs.open("a", mode, compression=compression)
        lost.write(b"after" if "b" in mode else "after")
        raise RuntimeError
    assert fs.cat_file("a") == b"before"
    with contextlib.suppress(ValueError):
        lost.close()
    assert fs.cat_file("a") == b"before"
    before = branch.log(1)
    with fs.transaction:
        kept = fs.open("a", mode, compression=compression)
        kept.write(b"after!" if "b" in mode else "after!")
        fs.pipe_file("b", b"")
        assert branch.log(1) == before
    after = branch.log(1)
    with pytest.raises(ValueError, match="closed"):
        kept.write(b"late" if "b" in mode else "late")
    with contextlib.suppress(ValueError):
        kept.close()
    assert branch.log(1) == after
    if mode == "ab":
        assert fs.cat_file("a").startswith(b"before")
    else:
        assert fs.open("a", compression=compression).read() == b"after!"


def test_what_a_transaction_refuses(fs: AlkFileSystem, branch: alknet_fs.Branch) -> None:
    branch.fork("agent")
    every = AlkFileSystem(fs.store)
    with pytest.raises(alknet_fs.Unsupported, match="one branch"), every.transaction:
        every.touch("default/main/a")
        every.touch("default/agent/a")
    assert not fs.exists("a")
    with pytest.raises(alknet_fs.Unsupported, match="already"), fs.transaction:
        fs.pipe_file("log", b"1")
        fs.open("log", "ab")
    with pytest.raises(FileNotFoundError), fs.transaction:
        fs.open("log", "r+b")
    fs.touch("a")
    with pytest.raises(FileExistsError), fs.transaction:
        fs.open("a", "xb")
    assert fs.find("") == ["a"]


def test_several_changes_of_one_call_are_one_commit(
    fs: AlkFileSystem, branch: alknet_fs.Branch
) -> None:
    fs.pipe({f"dir/{i}": b"x" for i in range(10)})
    copies = threading.Barrier(2)
    seen = []

    def other_thread() -> None:
        copies.wait()
        for i in range(10):
            fs.pipe_file(f"other/{i}", b"y")
            seen.append(fs.exists(f"other/{i}"))

    thread = threading.Thread(target=other_thread)
    thread.start()
    copies.wait()
    for i in range(10):
        fs.copy("dir", f"copies/{i}", recursive=True)
    thread.join()
    assert seen == [True] * 10
    assert len(fs.find("copies")) == 100
    with pytest.raises(IsADirectoryError):
        fs.pipe({"good": b"", "dir": b"a directory is there"})
    assert not fs.exists("good")
    agent = branch.fork("agent")
    every = AlkFileSystem(fs.store)
    both = ["default/main/x", "default/main/y", "default/agent/x", "default/agent/y"]
    every.pipe({path: path.encode() for path in both})
    assert every.cat(both) == {path: path.encode() for path in both}
    every.rm(both)
    assert not any(every.exists(path) for path in both)
    for tree in (branch, agent):
        assert {event.op for event in tree.log(2)} == {"remove"}


@pytest.mark.parametrize("text", ["\0", "x" * 300, "a/" * 3000, "\ud800", "a:b@c"], ids=ascii)
def test_where_nothing_can_be(fs: AlkFileSystem, text: str) -> None:
    top = AlkFileSystem(fs.store)
    for path in (text, f"default/{text}", f"default/main/{text}"):
        for ask in (top.exists, top.isfile, top.isdir, top.islink, top.lexists):
            assert not ask(path)
    assert not fs.exists(text)
    assert top.exists("")
    assert not top.islink("")


def test_a_path_of_a_tree(fs: AlkFileSystem, branch: alknet_fs.Branch, tmp_path: Path) -> None:
    path = branch / "d" / "f"
    fs.pipe_file(path, b"x")
    assert fs.cat(path) == fs.cat_file(path) == fs.open(path).read() == b"x"
    assert fs.find(path.parent) == fs.expand_path(path) == ["d/f"]
    fs.get_file(path, str(tmp_path / "f"))
    assert (tmp_path / "f").read_bytes() == b"x"
    (entry,) = branch.scandir("/d")
    fs.rm(entry)
    assert not fs.exists(path)


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with pytest.raises(TypeError, match="'brnch'"):
        fsspec.filesystem("alkfs", store=folder, create=True, brnch="main")
    with pytest.raises(TypeError, match="'brnch'"):
        fsspec.open("alkfs://default/main/a", "w", store=folder, create=True, brnch="main")
    assert not folder.exists()
    url = "alkfs://default/main/a"
    options: dict[str, Any] = {
        "use_listings_cache": True,
        "listings_expiry_time": 1,
        "max_paths": 1,
        "asynchronous": True,
        "skip_instance_cache": True,
        "auto_mkdir": True,
    }
    fs, _ = fsspec.url_to_fs(url, store=folder, create=True, **options)
    copies: list[Any] = [AlkFileSystem.from_json(fs.to_json()), pickle.loads(pickle.dumps(fs))]
    assert [copy.store.path for copy in copies] == [folder, folder]


def test_the_async_wrapper(fs: AlkFileSystem) -> None:
    wrapped = AsyncFileSystemWrapper(fs, asynchronous=False)
    wrapped.pipe({f"{i}": b"%d" % i for i in range(20)})
    assert wrapped.cat([f"{i}" for i in range(20)]) == {f"{i}": b"%d" % i for i in range(20)}


def test_a_mapper(fs: AlkFileSystem) -> None:
    mapper = fs.get_mapper("map")
    mapper["a/b"] = b"b"
    mapper["c"] = b"c"
    assert dict(mapper) == {"a/b": b"b", "c": b"c"}
    del mapper["c"]
    assert list(mapper) == ["a/b"]
    assert "c" not in mapper


def test_cached_and_chained_urls(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    alknet_fs.create(store).branch().write_bytes("/a.txt", b"data")
    url = "simplecache::alkfs://default/main/a.txt"
    cache = {"cache_storage": str(tmp_path / "cache")}
    fs, path = fsspec.url_to_fs(url, alkfs={"store": store}, simplecache=cache)
    assert fs.cat_file(path) == b"data"
    assert len(list((tmp_path / "cache").iterdir())) == 1
