"""What must not happen: a crash, a lost write, a lock that stops other threads."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import alknet_fs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


# Threads.


def test_many_threads_at_once(store: alknet_fs.Store) -> None:
    main = store.branch()
    main.write_bytes("/counter", b"")

    def work(number: int) -> None:
        branch = main if number % 2 else main.fork(f"agent-{number}")
        name = f"/{number}"
        branch.mkdir(name)
        with branch.batch() as batch:
            for i in range(10):
                batch.write_bytes(f"{name}/{i}", b"%d" % i)
        for i in range(10):
            assert branch.read_bytes(f"{name}/{i}") == b"%d" % i
        with branch.open_session(f"{name}/session") as session:
            session.append(b"x" * 400_000)
            session.pwrite(b"y", 399_999)
        with branch.open(f"{name}/file", "w") as file:
            print(number, file=file)
        with branch.view() as view:
            branch.rmtree(f"{name}/0")
            assert view.exists(f"{name}/0")
        assert branch.stat(f"{name}/session").size == 400_000
        assert len(branch.listdir(name)) == 11
        branch.snapshot(f"s{number}")

    with main.watch(ops=["snapshot"]) as watch, ThreadPoolExecutor(12) as pool:
        for done in [pool.submit(work, number) for number in range(24)]:
            done.result(120)
        seen = {event.name for event in iter(lambda: watch.next(0), None)}
    assert seen == {f"s{number}" for number in range(1, 24, 2)}
    assert len(main.listdir()) == 13
    assert store.fsck().problems == []


def test_threads_share_one_file(branch: alknet_fs.Branch) -> None:
    with branch.open_file("/a", write=True, create=True) as file, ThreadPoolExecutor(8) as pool:
        writes = [pool.submit(file.pwrite, b"%04d" % n, n * 4) for n in range(500)]
        assert [write.result() for write in writes] == [4] * 500
    assert branch.read_bytes("/a") == b"".join(b"%04d" % n for n in range(500))


APPENDS: dict[str, Callable[[alknet_fs.Branch, bytes], object]] = {}


def appends(append: Callable[[alknet_fs.Branch, bytes], object]) -> None:
    APPENDS[append.__name__] = append


@appends
def text(branch: alknet_fs.Branch, line: bytes) -> None:
    with branch.open("/log", "a") as file:
        file.write(line.decode())


@appends
def binary(branch: alknet_fs.Branch, line: bytes) -> None:
    with branch.open("/log", "ab") as file:
        file.write(line[:3])
        file.flush()
        file.write(line[3:])


@appends
def raw(branch: alknet_fs.Branch, line: bytes) -> None:
    with branch.open_file("/log", append=True, create=True) as file:
        file.write(line)


@appends
def session(branch: alknet_fs.Branch, line: bytes) -> None:
    with branch.open_session("/log") as session:
        session.append(line)


def append_lines(branch: alknet_fs.Branch, how: str, who: int) -> None:
    for number in range(20):
        padding = b"." * (300_000 if number % 10 == 9 else 0)
        APPENDS[how](branch, b"%d-%d%s\n" % (who, number, padding))


def check_lines(branch: alknet_fs.Branch, writers: int) -> None:
    lines = branch.read_bytes("/log").splitlines()
    numbers = [tuple(map(int, line.rstrip(b".").split(b"-"))) for line in lines]
    for who in range(writers):
        assert [number for writer, number in numbers if writer == who] == list(range(20))
    assert len(lines) == writers * 20


@pytest.mark.parametrize("how", APPENDS)
@pytest.mark.parametrize("there", [None, b""], ids=["new", "empty"])
def test_threads_that_append_to_one_file_lose_nothing(
    store: alknet_fs.Store, how: str, there: bytes | None
) -> None:
    branch = store.branch()
    if there is not None:
        branch.write_bytes("/log", there)
    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(append_lines, branch, how, who) for who in range(6)]:
            done.result(120)
    check_lines(branch, 6)
    assert branch.sessions() == []


def append_in_a_process(path: Path, how: str, who: int) -> None:
    with alknet_fs.open(path, create=False) as store:
        append_lines(store.branch(), how, who)


@pytest.mark.parametrize("how", APPENDS)
def test_processes_that_append_to_one_file_lose_nothing(tmp_path: Path, how: str) -> None:
    with alknet_fs.open(tmp_path / "store") as store:
        context = multiprocessing.get_context("spawn")
        processes = [
            context.Process(target=append_in_a_process, args=(tmp_path / "store", how, who))
            for who in range(2)
        ]
        for process in processes:
            process.start()
        append_lines(store.branch(), how, 2)
        for process in processes:
            process.join(120)
            assert process.exitcode == 0
        check_lines(store.branch(), 3)


HOLD_THE_WRITE_LOCK = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
database.execute("ROLLBACK")
"""


CHANGES: dict[str, Callable[[alknet_fs.Branch], object]] = {
    "write": lambda branch: branch.write_bytes("/new", b"x"),
    "mkdir": lambda branch: branch.mkdir("/new"),
    "remove": lambda branch: branch.remove("/a"),
    "truncate": lambda branch: branch.truncate("/a", 1),
    "set_attrs": lambda branch: branch.chmod("/a", 0o600),
    "fork": lambda branch: branch.fork("agent"),
    "snapshot": lambda branch: branch.snapshot("s"),
    "session": lambda branch: branch.open_session("/a").abort(),
    "file": lambda branch: branch.open("/a", "w").close(),
    "prune": lambda branch: branch.bucket.prune_events(at_most=0),
    "gc": lambda branch: branch.bucket.store.gc(grace=0),
    "bucket": lambda branch: branch.bucket.store.create_bucket("new"),
}


@pytest.mark.parametrize("change", [*CHANGES, "drop", "close"])
def test_a_call_that_waits_stops_no_other_thread(tmp_path: Path, change: str) -> None:
    """The call waits for a lock that is given back only if this thread can run meanwhile."""
    with alknet_fs.open(tmp_path / "store", busy_timeout=60) as store:
        branch = store.branch()
        branch.write_bytes("/a", b"garbage")
        branch.write_bytes("/a", b"abc")
        other = alknet_fs.open(tmp_path / "store", busy_timeout=60)
        flags = {"create": True, "create_new": False, "truncate": False, "exclusive": False}
        held = [other.branch()._open_session("/new", **flags, owner=None, mode=None)]
        changes: dict[str, Callable[[alknet_fs.Branch], object]] = {
            **CHANGES,
            "drop": lambda _: held.clear(),
            "close": lambda _: other.close(),
        }
        program = [sys.executable, "-c", HOLD_THE_WRITE_LOCK, str(tmp_path / "store" / "store.db")]
        pipe = subprocess.PIPE
        with subprocess.Popen(program, stdin=pipe, stdout=pipe, text=True) as holder:
            assert holder.stdin is not None
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            failures: list[BaseException] = []

            def work() -> None:
                try:
                    changes[change](branch)
                except BaseException as error:
                    failures.append(error)

            thread = threading.Thread(target=work)
            thread.start()
            thread.join(0.1)
            assert thread.is_alive()
            assert branch.read_bytes("/a") == b"abc"
            holder.stdin.write("\n")
            holder.stdin.flush()
            thread.join(60)
            assert not thread.is_alive()
            assert failures == []


def test_busy(tmp_path: Path) -> None:
    with alknet_fs.open(tmp_path / "store", busy_timeout=0.05) as store:
        program = [sys.executable, "-c", HOLD_THE_WRITE_LOCK, str(tmp_path / "store" / "store.db")]
        pipe = subprocess.PIPE
        with subprocess.Popen(program, stdin=pipe, stdout=pipe, text=True) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(BlockingIOError) as caught:
                store.branch().write_bytes("/a", b"x")
            assert isinstance(caught.value, alknet_fs.Busy)
            holder.communicate("\n")


# A process that dies.

WRITER = """
import os, random, sys
import alknet_fs

random.seed(int(sys.argv[2]))
store = alknet_fs.open(sys.argv[1])
branch = store.branch()
round = sys.argv[2]
number = 0

def acknowledge(*paths):
    os.write(1, "".join(f"{path}\\n" for path in paths).encode())

def data(path):
    return (path * 20).encode() * random.choice([1, 10, 2000])

while True:
    number += 1
    path = f"/{round}-{number}"
    how = random.randrange(4)
    if how == 0:
        branch.write_bytes(path, data(path))
        acknowledge(path)
    elif how == 1:
        with branch.open(path, "wb") as file:
            whole = data(path)
            for at in range(0, len(whole), 1000):
                file.write(whole[at:at + 1000])
        acknowledge(path)
    elif how == 2:
        with branch.open_session(path) as session:
            session.append(data(path))
        acknowledge(path)
    else:
        with branch.batch() as batch:
            for part in "abc":
                batch.write_bytes(path + part, data(path + part))
        acknowledge(*(path + part for part in "abc"))
"""


def unit(path: str) -> bytes:
    return (path * 20).encode()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_kill_loses_no_acknowledged_write(tmp_path: Path) -> None:
    path = tmp_path / "store"
    random.seed(4)
    acknowledged: list[str] = []
    for number in range(8):
        program = [sys.executable, "-c", WRITER, str(path), str(number)]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(random.randrange(1, 60)):
                acknowledged.append(writer.stdout.readline().strip())
            threading.Event().wait(random.random() / 50)
            writer.send_signal(signal.SIGKILL)
            acknowledged += writer.stdout.read().split()
        with alknet_fs.open(path, create=False) as store:
            branch = store.branch()
            names = set(branch.listdir())
            for name in acknowledged:
                data = branch.read_bytes(name)
                assert data
                assert data == unit(name) * (len(data) // len(unit(name)))
            assert all(
                len(names & {n[:-1] + part for part in "abc"}) in (0, 3)
                for n in names
                if n[-1] in "abc"
            )
            assert store.fsck().problems == []
            for session in store.sessions():
                assert not session.alive
                store.abort_session(session.id)
            store.gc(grace=0)
            assert store.fsck().problems == []
    assert len(acknowledged) > 50


def test_a_session_of_a_killed_process_is_resumed(tmp_path: Path) -> None:
    program = (
        "import alknet_fs, os, signal, sys\n"
        "session = alknet_fs.open(sys.argv[1]).branch().open_session('/big', owner='doomed')\n"
        "for _ in range(10):\n"
        "    session.append(b'0123456789' * 10_000)\n"
        "print(session.id, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "store")]
    number = int(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout)
    with alknet_fs.open(tmp_path / "store", create=False) as store:
        (info,) = store.sessions()
        assert (info.id, info.owner, info.alive, info.staged) == (number, "doomed", False, 10**6)
        with store.resume_session(number) as session:
            session.append(b"end")
        assert store.branch().read_bytes("/big") == b"0123456789" * 100_000 + b"end"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_touches_nothing_of_its_parent(tmp_path: Path) -> None:
    store = alknet_fs.open(tmp_path / "store")
    branch = store.branch()
    branch.write_bytes("/a", b"x")
    handles: list[Any] = [
        branch.open_file("/f", write=True, create=True),
        branch.open_session("/s"),
        branch.batch(),
        branch.view(),
        branch.open_reader("/a"),
        branch.watch(),
    ]
    handles[0].write(b"staged")
    handles[1].append(b"staged")
    handles[2].write_bytes("/b", b"x" * 300_000)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert store.closed
            refusals: list[str] = []
            for call in (
                lambda: branch.read_bytes("/a"),
                lambda: handles[0].write(b"child"),
                lambda: handles[1].append(b"child"),
                lambda: handles[2].commit(),
                lambda: handles[3].read_bytes("/a"),
                lambda: handles[4].pread(1, 0),
                lambda: handles[5].next(0),
                lambda: store.fsck(),
            ):
                try:
                    call()
                except alknet_fs.BadHandle as error:
                    refusals.append(str(error))
            assert len(refusals) == 8
            assert all("os.fork" in refusal for refusal in refusals)
            handles[3].close()
            handles[4].close()
            handles[5].close()
            handles.clear()
            with alknet_fs.open(tmp_path / "store") as own:
                assert own.branch().read_bytes("/a") == b"x"
                assert len(own.sessions()) == 2
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    handles[0].close()
    handles[1].close()
    handles[2].commit()
    assert branch.read_bytes("/f") == branch.read_bytes("/s") == b"staged"
    assert branch.stat("/b").size == 300_000
    assert handles[3].exists("/a")
    assert handles[4].pread(1, 0) == b"x"
    assert handles[5].next(0).path == "/f"
    assert store.fsck().problems == []


# Panics and hostile arguments.


@pytest.mark.parametrize("long", [False, True])
def test_a_panic_becomes_an_exception(long: bool) -> None:
    store = alknet_fs.memory()
    panic: Any = getattr(store, "_panic", None)
    if panic is None:
        pytest.skip("only builds for tests can panic on demand")
    with pytest.raises(BaseException, match="a panic of the engine") as caught:
        panic(long)
    assert type(caught.value).__name__ == "PanicException"
    store.branch().write_bytes("/a", b"still works")


HOSTILE = """
import gc, inspect, os, pathlib, random, sys, warnings
import alknet_fs
from alknet_fs import _native

seed = int(sys.argv[1])
random.seed(seed)
warnings.simplefilter("ignore")
os.chdir(sys.argv[2])

class BadPath:
    def __init__(self, result): self.result = result
    def __fspath__(self):
        if isinstance(self.result, Exception): raise self.result
        return self.result

class Lying:
    def __index__(self): raise ZeroDivisionError
    def __len__(self): return 10**9
    def __iter__(self): raise ZeroDivisionError
    def __getitem__(self, key): raise ZeroDivisionError
    def __eq__(self, other): raise ZeroDivisionError
    __hash__ = None

def released():
    view = memoryview(bytearray(3))
    view.release()
    return view

def handles():
    store = alknet_fs.memory() if random.random() < 0.7 else alknet_fs.open("store")
    branch = store.branch()
    branch.write_bytes("/a", b"abc")
    branch.makedirs("/d/e", exist_ok=True)
    names = [info.name for info in branch.bucket.branches()]
    live = [store, branch.bucket, branch, branch.view(), branch.batch(),
            branch.open_file("/a", read=True, write=True), branch.open_file("/a", read=True),
            branch.open("/a", "r+"), branch.open("/a", "rb"),
            branch.open_session("/s"), branch.open_reader("/a"), branch.watch(after=0),
            branch.stat("/a"), next(branch.scandir()), branch.log(1)[0], branch.info(),
            branch / "a", store.stats(), alknet_fs.Cancel(), store.gc(), store.fsck()]
    closed = alknet_fs.memory()
    gone = closed.branch()
    gone.write_bytes("/a", b"abc")
    dead = [gone, gone.bucket, gone.view(), gone.batch(), gone.open_file("/a", read=True),
            gone.open_session("/s"), gone.open_reader("/a"), gone.watch(after=0)]
    ended = [branch.view(), branch.batch(), branch.open_file("/a", read=True),
             branch.open_session("/t"), branch.open_reader("/a"), branch.watch()]
    for handle in ended:
        (handle.abort if hasattr(handle, "abort") else handle.close)()
    closed.close()
    return live + dead + [closed] + ended

def pool(objects):
    return [None, True, 0, 1, -1, 7, 0o100644, 2**63, 2**64, 10**30, -2**63 - 1, 1.5, -1.5,
            float("nan"), float("inf"), 1j, "", "/", "/a", "a", "d", "/d", "main", "main@x",
            "x" * 300, "/" + "x/" * 3000, "a\\0b", "\\udcff", "/\\ud800", "..", "**", "[",
            "{a", "@", "r+b", "r", "file", "create", b"", b"/a", b"\\xff", b"abc",
            bytearray(b"abc"), released(), memoryview(b"abc")[::2], [], ["/a"], ["\\udcff"],
            (), {}, set(), object(), Lying(), BadPath("/a"), BadPath(b"\\xff"), BadPath(3),
            BadPath(ValueError("no")), pathlib.PurePath("a"), lambda *a: 1 / 0, len, int,
            Ellipsis, range(3), iter("ab"), random.choice(objects)]

# These would wait for ever, or reach out of the test's folder.
SKIP = {"next", "__next__", "take", "export", "import_", "detach", "_panic", "__class_getitem__",
        "__del__", "__class__", "__init_subclass__", "__subclasshook__", "__new__", "__init__",
        "__sizeof__", "__getattribute__", "__dir__", "__setattr__", "__delattr__",
        "__reduce_ex__", "__reduce__", "__getstate__", "__format__", "__doc__", "__repr__",
        "__str__"}
EXPECTED = (TypeError, ValueError, OSError, OverflowError, MemoryError, AttributeError, LookupError,
            ZeroDivisionError, StopIteration, BufferError, AssertionError)

calls = 0
for _ in range(int(sys.argv[3])):
    objects = handles()
    for handle in objects:
        names = [name for name in dir(handle) if name not in SKIP]
        for name in random.sample(names, min(12, len(names))):
            arguments = [random.choice(pool(objects)) for _ in range(random.randrange(4))]
            keywords = {}
            try:
                method = getattr(handle, name)
                if not callable(method):
                    continue
                parameters = list(inspect.signature(method).parameters)
                for key in random.sample(parameters, min(len(parameters), random.randrange(3))):
                    keywords[key] = random.choice(pool(objects))
            except EXPECTED:
                continue
            if name in ("walk", "rglob", "glob", "events", "watch", "log", "find") and keywords.get(
                "timeout") is None:
                keywords.pop("timeout", None)
            calls += 1
            what = f"seed {seed}: {type(handle).__name__}.{name}(*{arguments!r}, **{keywords!r})"
            try:
                result = method(*arguments, **keywords)
                if hasattr(result, "__next__") and not isinstance(result, alknet_fs.Watch):
                    for _ in zip(range(5), result): pass
                repr(result)
            except EXPECTED:
                pass
            except BaseException as error:
                print(what, type(error), error, flush=True)
                raise
    del objects, handle, method
    gc.collect()
print(calls)
"""


@pytest.mark.parametrize("seed", range(4))
def test_hostile_arguments(tmp_path: Path, seed: int) -> None:
    program = [sys.executable, "-X", "faulthandler", "-c", HOSTILE, str(seed), str(tmp_path), "8"]
    result = subprocess.run(program, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-5000:]
    assert int(result.stdout) > 500


@pytest.mark.parametrize("path", [0, None, "a\0b", b"\xff\0", object(), 1.5, [], ""])
def test_hostile_places(tmp_path: Path, path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    branch = alknet_fs.memory().branch()
    expected = (TypeError, ValueError, OSError)
    for call in (
        lambda: alknet_fs.open(path),
        lambda: alknet_fs.create(path),
        lambda: branch.import_(path),
        lambda: branch.export("/", path),
    ):
        with pytest.raises(expected):
            call()


def test_hostile_callbacks(tmp_path: Path) -> None:
    store = alknet_fs.memory()
    store.branch().write_bytes("/a", b"x")
    hostile: list[Any] = [1, "x", int, lambda: None, sys.exit]
    for progress in hostile:
        with pytest.raises((TypeError, SystemExit)):
            store.fsck(progress=progress)
    with pytest.raises(TypeError):
        store.fsck(cancel=object())  # type: ignore[arg-type]  # pyright: ignore
    assert store.fsck(progress=lambda p: store.stats()).problems == []
