from __future__ import annotations

import copy
import multiprocessing
import os
import pathlib
import pickle
import shutil
from typing import TYPE_CHECKING, Any

import pytest

import alknet_fs

if TYPE_CHECKING:
    from collections.abc import Callable


def test_the_text(branch: alknet_fs.Branch) -> None:
    path = branch / "src" / "lib" / "a.tar.gz"
    assert str(path) == path.as_posix() == "/src/lib/a.tar.gz"
    assert bytes(path) == b"/src/lib/a.tar.gz"
    assert path == branch.path("src", pathlib.PurePosixPath("lib"), "a.tar.gz")
    assert hash(path) == hash(branch.path("/src/lib/a.tar.gz"))
    assert path != branch.fork("other").path(path)
    assert path != "/src/lib/a.tar.gz"
    assert (path.name, path.stem, path.suffix) == ("a.tar.gz", "a.tar", ".gz")
    assert path.suffixes == [".tar", ".gz"]
    assert path.parts == ("/", "src", "lib", "a.tar.gz")
    assert str(path.parent) == "/src/lib"
    assert [str(parent) for parent in path.parents] == ["/src/lib", "/src", "/"]
    assert str(path.joinpath("..", "x")) == "/src/lib/a.tar.gz/../x"
    assert str(path / "/b") == "/b"
    assert path.with_name("b").name == "b"
    assert path.with_stem("b").name == "b.gz"
    assert path.with_suffix("").name == "a.tar"
    assert path.relative_to(branch / "src") == pathlib.PurePosixPath("lib/a.tar.gz")
    assert path.is_relative_to("/src")
    assert not path.is_relative_to("/other")
    assert path.is_absolute()
    assert path.match("*.gz")
    assert path.parent < path
    assert sorted([path, path.parent]) == [path.parent, path]
    assert path.tree is branch
    assert repr(path) == "alknet_fs.Path(<alknet_fs.Branch 'main'>, '/src/lib/a.tar.gz')"


def refuse(path: Any, folder: pathlib.Path) -> None:
    """See to it that what works on the operating system's files does not take a path of a tree."""
    refusing: list[Callable[[Any], object]] = [
        open,
        os.fspath,
        os.listdir,
        os.remove,
        pathlib.Path,
        shutil.rmtree,
        alknet_fs.open,
        alknet_fs.memory().branch().import_,
        lambda path: alknet_fs.memory().branch().export("/", path),
    ]
    (folder / "f").write_bytes(b"mine")
    for function in refusing:
        with pytest.raises(TypeError):
            function(path)
    assert (folder / "f").read_bytes() == b"mine"


def test_the_operating_system_refuses_it(branch: alknet_fs.Branch, tmp_path: pathlib.Path) -> None:
    path = branch.path(tmp_path)
    path.parent.mkdir(parents=True)
    path.touch()
    refuse(path, tmp_path)
    (entry,) = branch.scandir(path.parent)
    assert entry.path == str(path)
    refuse(entry, tmp_path)
    assert branch.read_bytes(entry) == b""
    assert branch.path(entry) == path == branch / entry
    assert path.is_relative_to(path.parent)
    assert list(branch.walk(path.parent)) == list(branch.walk(str(path.parent)))


def test_our_own_calls_take_it(branch: alknet_fs.Branch) -> None:
    path = branch / "d" / "f"
    with branch.batch() as batch:
        batch.makedirs(path.parent)
        batch.write_bytes(path, b"x")
        batch.copy(path, branch / "d" / "g")
    with branch.open_session(path) as session:
        session.append(b"y")
    with branch.open(path) as file:
        assert file.read() == "xy"
    branch.symlink(path, branch / "link")
    assert branch.readlink("/link") == "/d/f"
    assert path.samefile(branch / "link")
    assert [event.path for event in branch.events(under=path.parent)][:1] == ["/d"]
    assert branch.fork("other").diff(branch, path.parent) == []


NOWHERE = ["\0", "a\0", "x" * 300, "a/" * 3000, "\ud800"]


@pytest.mark.parametrize("text", NOWHERE, ids=ascii)
def test_where_nothing_can_be(branch: alknet_fs.Branch, text: str) -> None:
    with branch.view() as view:
        for tree in (branch, view):
            path = tree.path(text)
            there = [path.exists(), path.is_dir(), path.is_file(), path.is_symlink()]
            there += [tree.exists(text), tree.is_dir(text), tree.is_file(text)]
            assert not any(there)
            assert not any((tree.exists(""), tree.is_dir(b""), tree.is_file("")))
            assert list(path.glob("*")) == []
            with pytest.raises((alknet_fs.InvalidPath, alknet_fs.NameTooLong)):
                tree.stat(text)


def test_a_closed_store_does_not_say_that_nothing_is_there() -> None:
    store = alknet_fs.memory()
    path = store.branch() / "a"
    store.close()
    for ask in (path.exists, path.is_dir, path.is_file):
        with pytest.raises(alknet_fs.BadHandle):
            ask()


def test_files(branch: alknet_fs.Branch) -> None:
    path = branch / "a.txt"
    assert not path.exists()
    path.touch(mode=0o600)
    assert path.stat().mode == 0o600
    branch.utime(path, ns=(0, 0))
    path.touch()
    assert path.stat().mtime_ns > 0
    with pytest.raises(FileExistsError):
        path.touch(exist_ok=False)
    assert path.write_text("é\n", newline="\r\n") == 2
    assert path.read_bytes() == b"\xc3\xa9\r\n"
    assert path.read_text() == "é\n"
    assert path.write_bytes(b"abc") == 3
    with path.open("a") as file:
        file.write("d")
    with path.open("rb") as file:
        assert file.read() == b"abcd"
    assert path.is_file()
    assert not path.is_dir()
    path.chmod(0o644)
    moved = path.rename("/b.txt")
    assert (str(moved), path.exists(), moved.exists()) == ("/b.txt", False, True)
    assert moved.copy(branch / "c.txt").read_bytes() == b"abcd"
    assert str(moved.replace("/c.txt")) == "/c.txt"
    (branch / "c.txt").unlink()
    (branch / "c.txt").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (branch / "c.txt").unlink()


def test_directories(branch: alknet_fs.Branch) -> None:
    deep = branch / "a" / "b" / "c"
    with pytest.raises(FileNotFoundError):
        deep.mkdir()
    deep.mkdir(0o700, parents=True)
    assert deep.stat().mode == 0o700
    with pytest.raises(FileExistsError):
        deep.mkdir(parents=True)
    deep.mkdir(exist_ok=True)
    deep.mkdir(parents=True, exist_ok=True)
    (deep / "f").write_bytes(b"")
    with pytest.raises(FileExistsError):
        (deep / "f").mkdir(exist_ok=True)
    assert list((branch / "a").iterdir()) == [branch / "a" / "b"]
    with pytest.raises(NotADirectoryError):
        (deep / "f").iterdir()
    with pytest.raises(alknet_fs.NotEmpty):
        deep.rmdir()
    assert (branch / "a").rmtree() == 4
    assert branch.listdir() == []


def test_links(branch: alknet_fs.Branch) -> None:
    (branch / "d").mkdir()
    (branch / "d" / "f").write_bytes(b"x")
    link = branch / "l"
    link.symlink_to("d")
    assert link.is_symlink()
    assert link.is_dir()
    assert not (branch / "missing").is_symlink()
    assert link.readlink() == pathlib.PurePosixPath("d")
    assert link.lstat().is_symlink()
    assert (link / "f").resolve() == branch / "d" / "f"
    assert (link / "missing" / "more").resolve() == branch / "d" / "missing" / "more"
    with pytest.raises(FileNotFoundError):
        (link / "missing").resolve(strict=True)
    assert (link / "f").samefile("/d/f")
    link.lchmod(0o600)
    with pytest.raises(alknet_fs.Unsupported):
        (branch / "hard").hardlink_to("/d/f")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.py", ["/p/a.py"]),
        ("*/*.py", ["/p/x/b.py"]),
        ("**/*.py", ["/p/a.py", "/p/x/b.py", "/p/x/y/c.py"]),
        ("x", ["/p/x"]),
        ("x/**/c.py", ["/p/x/y/c.py"]),
        ("?.txt", ["/p/d.txt"]),
        ("[ab].py", ["/p/a.py"]),
        ("missing", []),
    ],
)
def test_glob(branch: alknet_fs.Branch, pattern: str, found: list[str]) -> None:
    with branch.batch() as batch:
        batch.makedirs("/p/x/y")
        for name in ("/a.py", "/p/a.py", "/p/d.txt", "/p/x/b.py", "/p/x/y/c.py"):
            batch.write_bytes(name, b"")
    assert sorted(str(path) for path in branch.path("p").glob(pattern)) == found
    branch.symlink("p", "/link")
    through = [str(path) for path in branch.path("link").glob("*.py")]
    assert through == ["/link/a.py"]
    assert len(list(branch.path().rglob("*.py"))) == 4
    with pytest.raises(ValueError, match="unacceptable"):
        branch.path().glob("")
    branch.symlink("loop", "/loop")
    for nothing in ("missing", "missing/too", "a.py", "a.py/too", "loop"):
        assert list(branch.path(nothing).glob("*")) == []


def test_walk(branch: alknet_fs.Branch) -> None:
    with branch.batch() as batch:
        batch.makedirs("/a/b")
        batch.makedirs("/a/c")
        batch.write_bytes("/a/f", b"")
        batch.write_bytes("/a/b/g", b"")
        batch.symlink("b", "/a/link")
        batch.symlink("nowhere", "/a/dangling")
    down: list[tuple[str, list[str], list[str]]]
    down = [("/a", ["b", "c", "link"], ["dangling", "f"]), ("/a/b", [], ["g"]), ("/a/c", [], [])]
    assert list(branch.walk("/a")) == down
    assert list(branch.walk(b"/a", topdown=False)) == [down[1], down[2], down[0]]
    followed = list(branch.walk(branch / "a", followlinks=True))
    assert followed == [*down, ("/a/link", [], ["g"])]
    pruned: list[str] = []
    for path, dirs, _ in branch.walk("/"):
        pruned.append(path)
        dirs[:] = [name for name in dirs if name != "b"]
    assert pruned == ["/", "/a", "/a/c"]
    assert list(branch.walk("/missing")) == []
    errors: list[OSError] = []
    assert list(branch.walk("/a/f", onerror=errors.append)) == []
    assert isinstance(errors[0], NotADirectoryError)
    with branch.view() as view:
        assert list(view.walk("/a")) == down
        walked = [(str(path), dirs, files) for path, dirs, files in view.path("a").walk()]
        assert walked == down
    for path, dirs, files in branch.walk("/", topdown=False):
        for name in files:
            branch.remove(f"{path}/{name}")
        for name in dirs:
            child = branch.path(path, name)
            if child.is_symlink():
                child.unlink()
            else:
                child.rmdir()
    assert branch.listdir() == []


def test_find(branch: alknet_fs.Branch) -> None:
    branch.makedirs("/a/b")
    branch.write_bytes("/a/b/f", b"x")
    assert [entry.path for entry in branch.find()] == ["/a", "/a/b", "/a/b/f"]
    (entry,) = branch.find("/a/b/f")
    assert (entry.name, entry.stat().size) == ("f", 1)
    assert branch.glob("f") == ["/a/b/f"]
    assert branch.glob("/b/*", "/a") == ["/a/b/f"]
    with pytest.raises(FileNotFoundError):
        branch.find("/missing")


def test_a_view_is_read_only(branch: alknet_fs.Branch) -> None:
    branch.write_bytes("/a", b"x")
    with branch.view() as view:
        path = view / "a"
        assert path.read_bytes() == b"x"
        with path.open() as file:
            assert file.read() == "x"
        with pytest.raises(alknet_fs.ReadOnly) as caught:
            path.write_bytes(b"y")
        assert caught.value.filename == "/a"
        with pytest.raises(OSError, match="read"):
            path.open("w")
        assert branch.path("a") != path


def work(branch: alknet_fs.Branch) -> bytes:
    branch.write_bytes("/from-the-other", b"here")
    return branch.read_bytes("/a")


def test_pickling(tmp_path: pathlib.Path) -> None:
    store = alknet_fs.open(tmp_path / "store", author="me", durability="relaxed", busy_timeout=5)
    branch = store.branch()
    branch.write_bytes("/a", b"x")
    again: alknet_fs.Branch = pickle.loads(pickle.dumps(branch))
    assert again.read_bytes("/a") == b"x"
    again.write_bytes("/b", b"y")
    assert branch.log(1)[0].author == "me"
    both: tuple[alknet_fs.Store, alknet_fs.Bucket] = pickle.loads(
        pickle.dumps((store, store.bucket()))
    )
    assert both[0].path == tmp_path / "store"
    assert both[0] == both[1].store
    assert both[1].branch().read_bytes("/b") == b"y"
    path: alknet_fs.Path = pickle.loads(pickle.dumps(branch / "a"))
    assert path.read_bytes() == b"x"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(work, (branch,)) == b"x"
    assert branch.read_bytes("/from-the-other") == b"here"
    with branch.view() as view, pytest.raises(TypeError):
        pickle.dumps(view)


def test_what_calls_return_is_pickled(tmp_path: pathlib.Path) -> None:
    store = alknet_fs.open(tmp_path / "store", author="me")
    main = store.branch()
    with main.batch() as batch:
        batch.mkdir("/d")
        batch.write_bytes("/d/a", b"x" * 300_000)
        batch.symlink("a", "/d/é")
    main.snapshot("s")
    agent = main.fork("agent")
    agent.rename("/d/a", "/b")
    agent.write_bytes("/c", b"")
    session = agent.open_session("/c")
    store.schedule_gc("@every 6h")
    seen: list[alknet_fs.Progress] = []
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "f").write_bytes(b"f")
    records: list[Any] = [
        *(main.lstat(path) for path in ("/", "/d/a", "/d/é")),
        *store.bucket().log(100),
        *main.diff(agent),
        *store.bucket().branches(),
        *main.snapshots(),
        *store.sessions(),
        session.close(),
        store.stats(),
        store.gc(),
        store.gc_schedule(),
        store.fsck(),
        store.bucket().sharing(["main", "agent"]),
        main.import_(tmp_path / "from", "/f", progress=seen.append),
        main.export("/", tmp_path / "to"),
        *seen[-1:],
    ]
    again = pickle.loads(pickle.dumps(records))
    assert again == records
    assert list(map(repr, again)) == list(map(repr, records))
    assert copy.deepcopy(records) == records
    assert {type(record).__name__ for record in records} == {
        "BranchInfo",
        "Closed",
        "Difference",
        "Entry",
        "Event",
        "ExportReport",
        "FsckReport",
        "GcReport",
        "GcSchedule",
        "ImportReport",
        "Progress",
        "SessionInfo",
        "Sharing",
        "Snapshot",
        "Stats",
    }
    (sharing,) = (record for record in records if isinstance(record, alknet_fs.Sharing))
    assert pickle.loads(pickle.dumps(sharing.trees)) == sharing.trees
    with pytest.raises(TypeError):
        pickle.dumps(main.batch())


def test_a_store_opened_by_a_relative_path_stays_where_it_is(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = alknet_fs.open("store")
    monkeypatch.chdir(tmp_path / "elsewhere")
    big = os.urandom(1_000_000)
    store.branch().write_bytes("/big", big)
    assert store.path == tmp_path / "store"
    again: alknet_fs.Branch = pickle.loads(pickle.dumps(store.branch()))
    assert again.read_bytes("/big") == store.branch().read_bytes("/big") == big
    assert list(pathlib.Path().iterdir()) == []


def test_a_store_in_memory_is_not_pickled() -> None:
    store = alknet_fs.memory()
    for handle in (store, store.bucket(), store.branch()):
        with pytest.raises(TypeError, match="memory"):
            pickle.dumps(handle)


def test_handles_are_equal(tmp_path: pathlib.Path) -> None:
    store = alknet_fs.open(tmp_path / "store")
    branch = store.branch()
    assert branch == store.bucket().branch()
    assert branch.bucket == store.bucket()
    assert len({branch, store.branch()}) == 1
    branch.rename_to("other")
    assert branch == store.branch("other")
    assert branch != branch.fork("main")
    assert branch != alknet_fs.memory().branch()
