from __future__ import annotations

import errno
import os
import pathlib
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import alknet_fs
from alknet_fs import _native


def test_write_read_stat(branch: alknet_fs.Branch) -> None:
    assert branch.write_bytes("/a", b"hello") == 5
    assert branch.read_bytes("/a") == b"hello"
    entry = branch.stat("/a")
    assert (entry.kind, entry.size, entry.st_size) == ("file", 5, 5)
    assert stat.S_ISREG(entry.st_mode)
    assert stat.S_IMODE(entry.st_mode) == entry.mode == 0o644
    assert entry.hash == "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f"
    assert entry.st_mtime_ns == entry.mtime_ns
    assert entry.st_mtime == pytest.approx(entry.mtime_ns / 1e9)
    assert stat.S_ISDIR(branch.stat("/").st_mode)


@pytest.mark.parametrize(
    "path",
    ["/d/é", "d/é", b"/d/\xc3\xa9", pathlib.PurePosixPath("/d/é"), "/x/../d//./é"],
    ids=str,
)
def test_paths_of_every_type(
    branch: alknet_fs.Branch, path: str | bytes | os.PathLike[str]
) -> None:
    branch.mkdir("/d")
    branch.write_bytes(path, b"x")
    assert branch.exists(path)
    assert branch.listdir("/d") == ["é"]


@pytest.mark.parametrize("path", ["", "/a\0b", b"/\xff", "/\udcff"], ids=repr)
def test_bad_paths(branch: alknet_fs.Branch, path: str | bytes) -> None:
    with pytest.raises(alknet_fs.InvalidPath):
        branch.read_bytes(path)


class Returns:
    def __init__(self, value: object) -> None:
        self.value = value

    def __fspath__(self) -> Any:
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


@pytest.mark.parametrize(
    "path", [1, None, object(), ["/a"], Returns(1), Returns, pathlib.Path], ids=repr
)
def test_what_is_no_path(branch: alknet_fs.Branch, path: Any) -> None:
    with pytest.raises(TypeError):
        branch.read_bytes(path)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("mine")], ids=repr)
def test_a_path_that_raises(branch: alknet_fs.Branch, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        branch.read_bytes(Returns(error))
    assert caught.value is error


@pytest.mark.parametrize(
    "data", [b"abc", bytearray(b"abc"), memoryview(b"xabcx")[1:4], memoryview(b"a-b-c")[::2]]
)
def test_data_of_every_type(branch: alknet_fs.Branch, data: bytes | bytearray | memoryview) -> None:
    assert branch.write_bytes("/a", data) == 3
    assert branch.read_bytes("/a") == b"abc"


def test_text_is_not_bytes(branch: alknet_fs.Branch) -> None:
    with pytest.raises(TypeError):
        branch.write_bytes("/a", "text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    branch.write_text("/a", "é\r\n", newline="")
    assert branch.read_bytes("/a") == "é\r\n".encode()
    assert branch.read_text("/a") == "é\n"


def test_errors_are_both_kinds(branch: alknet_fs.Branch) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        branch.read_bytes("/missing")
    error = caught.value
    assert isinstance(error, alknet_fs.AlkError)
    assert isinstance(error, alknet_fs.NotFound)
    assert (error.kind, error.code, error.errno) == ("NotFound", "ENOENT", errno.ENOENT)
    assert (error.op, error.path, error.filename) == ("read", "/missing", "/missing")
    assert str(error) == f"[Errno {errno.ENOENT}] no such file or directory: '/missing'"


def test_every_kind_has_a_class() -> None:
    from alknet_fs import _errors

    for name, code, number, text in _native.kinds():
        error = _errors.make(name, text, "/p", "op")
        assert type(error) is getattr(alknet_fs, "AlkError" if name == "Io" else name)
        assert error.kind == name
        assert (error.code, error.errno) == (code, getattr(errno, code, number))
        plain = OSError(error.errno, text)
        assert isinstance(error, type(plain)), name


def test_builtin_exceptions(branch: alknet_fs.Branch) -> None:
    branch.makedirs("/d/e")
    branch.write_bytes("/f", b"")
    with pytest.raises(IsADirectoryError):
        branch.read_bytes("/d")
    with pytest.raises(NotADirectoryError):
        branch.listdir("/f")
    with pytest.raises(FileExistsError):
        branch.mkdir("/d")
    with pytest.raises(FileExistsError):
        branch.makedirs("/d/e")
    with pytest.raises(alknet_fs.NotEmpty):
        branch.rmdir("/d")
    with pytest.raises(alknet_fs.Unsupported):
        branch.link("/f", "/g")


def test_create_and_replace(branch: alknet_fs.Branch) -> None:
    with pytest.raises(FileNotFoundError):
        branch.write_bytes("/a", b"x", create=False)
    branch.write_bytes("/a", b"x", replace=False, mode=0o600)
    with pytest.raises(FileExistsError):
        branch.write_bytes("/a", b"y", replace=False)
    assert branch.stat("/a").mode == 0o600
    with pytest.raises(ValueError, match="cannot both"):
        branch.write_bytes("/a", b"y", create=False, replace=False)


def test_directories(branch: alknet_fs.Branch) -> None:
    branch.makedirs("/a/b/c")
    branch.makedirs("/a/b/c", exist_ok=True)
    branch.makedirs("/a/b/d", mode=0o700)
    assert branch.stat("/a/b/d").mode == 0o700
    branch.write_bytes("/a/b/f", b"1")
    branch.symlink("c", "/a/b/link")
    branch.symlink("nowhere", "/a/b/dangling")
    with branch.scandir("/a/b") as entries:
        found = {e.name: (e.path, e.is_dir(), e.is_file(), e.is_symlink()) for e in entries}
    assert found == {
        "c": ("/a/b/c", True, False, False),
        "d": ("/a/b/d", True, False, False),
        "dangling": ("/a/b/dangling", False, False, True),
        "f": ("/a/b/f", False, True, False),
        "link": ("/a/b/link", True, False, True),
    }
    assert [e.path for e in branch.scandir()] == ["/a"]
    assert branch.listdir() == ["a"]
    assert branch.is_dir("/a/b/link")
    assert not branch.is_dir("/a/b/f/x")
    assert branch.is_file("/a/b/f")
    assert branch.rmtree("/a") == 7
    assert branch.listdir() == []


def test_threads_that_make_one_directory(branch: alknet_fs.Branch) -> None:
    for number in range(6):
        with ThreadPoolExecutor(4) as pool:
            made = [
                pool.submit(branch.makedirs, f"/{number}/d", 0o700, exist_ok=True) for _ in range(4)
            ]
            assert [done.result() for done in made] == [None] * 4
        assert branch.stat(f"/{number}/d").mode == 0o700
        assert branch.stat(f"/{number}").mode == 0o755
    branch.write_bytes("/file", b"")
    with pytest.raises(NotADirectoryError):
        branch.makedirs("/file", 0o700, exist_ok=True)
    with pytest.raises(FileExistsError):
        branch.makedirs("/0/d", 0o700)


def test_links(branch: alknet_fs.Branch) -> None:
    branch.write_bytes("/a", b"x")
    branch.symlink("a", "/l")
    assert branch.readlink("/l") == "a"
    assert branch.realpath("/l") == "/a"
    assert branch.lstat("/l").target == "a"
    assert branch.stat("/l", follow_symlinks=False) == branch.lstat("/l")
    branch.chmod("/l", 0o600)
    assert branch.stat("/a").mode == 0o600
    branch.symlink(pathlib.PurePosixPath("a"), "/l2")
    branch.symlink("é".encode(), b"/l3")
    assert (branch.readlink("/l2"), branch.readlink("/l3")) == ("a", "é")
    for target in (b"\xff", "\udcff", "", "a\0b"):
        with pytest.raises(alknet_fs.InvalidInput):
            branch.symlink(target, "/l4")
    branch.symlink("loop", "/loop")
    with pytest.raises(alknet_fs.TooManyLinks):
        branch.stat("/loop")
    assert not branch.exists("/loop")
    assert not branch.is_file("/loop")
    assert not branch.is_dir("/loop/more")
    with branch.view() as view:
        assert not view.is_dir("/loop")


def test_rename_copy_remove(branch: alknet_fs.Branch) -> None:
    branch.write_bytes("/a", b"a")
    branch.write_bytes("/b", b"b")
    with pytest.raises(FileExistsError):
        branch.rename("/a", "/b", replace=False)
    branch.rename("/a", "/b")
    assert branch.copy("/b", "/c") == 1
    branch.replace("/c", "/d")
    branch.remove("/b")
    assert branch.listdir() == ["d"]
    branch.unlink("/d")
    assert not branch.exists("/d")


def test_attributes(branch: alknet_fs.Branch) -> None:
    branch.write_bytes("/a", b"0123456789")
    branch.utime("/a", (1, 2.5))
    assert branch.stat("/a").mtime_ns == 2_500_000_000
    branch.utime("/a", ns=(1, 7))
    assert branch.stat("/a").mtime_ns == 7
    before = branch.stat("/a").gid
    branch.chown("/a", 5, -1)
    assert (branch.stat("/a").uid, branch.stat("/a").gid) == (5, before)
    branch.truncate("/a", 4)
    branch.truncate("/a", 6)
    assert branch.read_bytes("/a") == b"0123\0\0"
    with pytest.raises(ValueError, match="negative"):
        branch.truncate("/a", -1)
    with pytest.raises(alknet_fs.InvalidInput):
        branch.chmod("/a", 0o100644)


def test_fork_snapshot_restore(store: alknet_fs.Store) -> None:
    main = store.branch()
    main.write_bytes("/a", b"1")
    main.snapshot("one")
    main.write_bytes("/a", b"2")
    live, pinned = main.fork("live"), main.fork("pinned", "one")
    main.write_bytes("/a", b"3")
    assert (live.read_bytes("/a"), pinned.read_bytes("/a")) == (b"3", b"1")
    with main.view("one") as view:
        assert view.read_text("/a") == "1"
    with pytest.raises(alknet_fs.BadHandle):
        view.exists("/a")
    main.restore("one")
    assert main.read_bytes("/a") == b"1"
    assert [s.name for s in main.snapshots()] == ["one"]
    main.rename_snapshot("one", "first")
    assert [s.name for s in main.snapshots()] == ["first"]
    for name, new, error in (
        ("one", "x", alknet_fs.NotFound),
        ("first", "a@b", alknet_fs.InvalidInput),
    ):
        with pytest.raises(error):
            main.rename_snapshot(name, new)
    main.rename_snapshot("first", "one")
    infos = {i.name: (i.parent, i.live) for i in store.bucket().branches()}
    assert infos == {"main": (None, False), "live": ("main", True), "pinned": ("main", False)}
    assert store.bucket().view("main@one").tree_hash() == main.tree_hash()


def test_a_diff_says_what_changes_to_the_other(store: alknet_fs.Store) -> None:
    main = store.branch()
    main.write_bytes("/old", b"old")
    main.snapshot("s")
    agent = main.fork("agent", "s")
    agent.write_bytes("/new", b"new")
    agent.remove("/old")
    changes = [("added", "/new"), ("deleted", "/old")]

    def said(found: list[alknet_fs.Difference]) -> list[tuple[str, str]]:
        return [(change.what, change.path) for change in found]

    assert said(main.diff("agent")) == said(main.diff(agent)) == changes
    assert said(agent.diff(main)) == [("deleted", "/new"), ("added", "/old")]
    assert said(main.diff(agent, "/new")) == changes[:1]
    bucket = store.bucket()
    assert said(bucket.diff(main, agent)) == said(bucket.diff("main", agent)) == changes
    main.remove("/old")
    with main.view("s") as view, bucket.view("main@s") as same:
        assert said(agent.diff(view)) == said(agent.diff("main@s"))
        assert said(bucket.diff(view, agent)) == said(bucket.diff(same, agent)) == changes
        main.rename_to("trunk")
        assert said(bucket.diff(view, agent)) == said(bucket.diff(same, agent)) == changes
    assert said(agent.diff(main)) == [("deleted", "/new")]
    for now in (main.view(), bucket.view("agent")):
        with now, pytest.raises(alknet_fs.Unsupported, match="snapshot"):
            agent.diff(now)
    elsewhere = store.create_bucket("elsewhere").branch()
    elsewhere.rename_to("agent")
    with pytest.raises(alknet_fs.InvalidInput, match="another bucket"):
        main.diff(elsewhere)


def test_a_snapshot_is_no_branch(store: alknet_fs.Store) -> None:
    store.branch().snapshot("s")
    with pytest.raises(alknet_fs.NotFound, match=r"bucket\.view\('main@s'\)") as caught:
        store.branch("main@s")
    assert (caught.value.path, caught.value.op) == ("main@s", "open branch")
    with pytest.raises(alknet_fs.NotFound, match="no such branch: 'missing'"):
        store.branch("missing")


def test_what_has_the_wrong_type(branch: alknet_fs.Branch) -> None:
    text: Any = b"x"
    for write in (branch.write_text, branch.batch().write_text):
        with pytest.raises(TypeError, match="data is str, not bytes"):
            write("/a", text)
    nowhere: Any = None
    for how in (alknet_fs.open, alknet_fs.create):
        with pytest.raises(TypeError, match="not None"):
            how(nowhere)
    branch.write_bytes("/a", b"")
    before = branch.stat("/a")
    for times in ("x", "xy", 1, (), (1,), (1, 2, 3), [1, 2]):
        wrong: Any = times
        with pytest.raises(TypeError, match="tuples of two"):
            branch.utime("/a", wrong)
        with pytest.raises(TypeError, match="tuples of two"):
            branch.utime("/a", ns=wrong)
    assert branch.stat("/a") == before


def test_stores(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "store"
    with pytest.raises(alknet_fs.NotAStore):
        alknet_fs.open(path, create=False)
    with alknet_fs.create(path) as store:
        store.create_bucket("other").branch().write_bytes("/a", b"x")
        assert store.buckets() == ["default", "other"]
        assert store.path == path
        branch = store.branch("main", "other")
    assert store.closed
    with pytest.raises(alknet_fs.BadHandle):
        branch.read_bytes("/a")
    with pytest.raises(FileExistsError):
        alknet_fs.create(path)
    with alknet_fs.open(str(path)) as store:
        assert store.branch("main", "other").read_bytes("/a") == b"x"
    with pytest.raises(ValueError, match="durability"):
        alknet_fs.open(path, durability="none")  # type: ignore[arg-type]  # pyright: ignore


def test_threads(branch: alknet_fs.Branch) -> None:
    def work(number: int) -> None:
        for i in range(20):
            branch.write_bytes(f"/{number}-{i}", f"{number} {i}".encode())
            assert branch.read_bytes(f"/{number}-{i}") == f"{number} {i}".encode()

    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(branch.listdir()) == 160


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_fork_of_the_process(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "store"
    store = alknet_fs.open(path)
    branch = store.branch()
    branch.write_bytes("/a", b"parent")
    file = branch.open_file("/open", write=True, create=True)
    file.write(b"staged")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            try:
                branch.read_bytes("/a")
            except alknet_fs.BadHandle as error:
                if "os.fork" in str(error):
                    del branch, store
                    alknet_fs.open(path).branch().write_bytes("/b", b"child")
                    code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert branch.read_bytes("/b") == b"child"
    file.close()
    assert branch.read_bytes("/open") == b"staged"
