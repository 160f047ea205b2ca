from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import alknet_fs


def test_events_and_their_fields(branch: alknet_fs.Branch) -> None:
    branch.write_bytes("/a", b"one")
    branch.write_bytes("/a", b"two!")
    branch.chmod("/a", 0o600)
    branch.rename("/a", "/b")
    branch.snapshot("s")
    branch.remove("/b")
    made, changed, mode, renamed, snapshot, removed = branch.events()
    assert (made.op, made.path, made.kind, made.size, made.old) == ("create", "/a", "file", 3, None)
    assert (changed.op, changed.old, changed.size) == ("modify", made.new, 4)
    assert mode.op == "attributes"
    assert (renamed.op, renamed.from_path, renamed.path) == ("rename", "/a", "/b")
    assert (snapshot.op, snapshot.name, snapshot.path) == ("snapshot", "s", None)
    assert (removed.op, removed.path) == ("remove", "/b")
    assert {e.author for e in branch.events()} == {"tester"}
    assert {(e.bucket, e.branch) for e in branch.events()} == {("default", "main")}
    assert made.cursor < changed.cursor
    assert made.at_ns <= changed.at_ns
    assert branch.log() == [removed, snapshot, renamed, mode, changed, made]
    assert branch.log(2) == [removed, snapshot]
    assert repr(removed) == "<Event main remove /b>"


def test_filters(store: alknet_fs.Store) -> None:
    branch = store.branch()
    branch.makedirs("/src/lib")
    branch.write_bytes("/src/a.py", b"")
    branch.write_bytes("/src/lib/b.py", b"")
    branch.write_bytes("/c.txt", b"")
    branch.symlink("c.txt", "/l")
    branch.fork("agent").write_bytes("/d.py", b"")

    def paths(events: alknet_fs.Watch) -> list[str | None]:
        return [event.path for event in events]

    assert paths(branch.events("*.py")) == ["/src/a.py", "/src/lib/b.py"]
    assert paths(branch.events(["/src/*.py", "*.txt"])) == ["/src/a.py", "/c.txt"]
    assert paths(branch.events(under="/src/lib")) == ["/src/lib", "/src/lib/b.py"]
    assert paths(branch.events(directly_in=b"/src")) == ["/src", "/src/lib", "/src/a.py"]
    assert paths(branch.events(kinds=["dir", "symlink"])) == ["/src", "/src/lib", "/l"]
    assert paths(branch.events(ops=["remove"])) == []
    assert [e.path for e in branch.log(1, "*.py")] == ["/src/lib/b.py"]
    bucket = branch.bucket
    assert [e.path for e in bucket.log(1, "*.py")] == ["/d.py"]
    assert [e.path for e in bucket.log(1, "*.py", branch="main")] == ["/src/lib/b.py"]
    assert paths(bucket.watch(ops=["create"], branch="agent", after=0, timeout=0)) == ["/d.py"]
    assert paths(store.watch("*.py", after=0, timeout=0))[-1] == "/d.py"
    with pytest.raises(alknet_fs.InvalidInput):
        branch.watch("a{b")
    with pytest.raises(alknet_fs.InvalidInput):
        branch.watch(ops=["explode"])  # type: ignore[list-item]  # pyright: ignore
    with pytest.raises(FileNotFoundError):
        store.watch(bucket="missing")


def test_a_watch_goes_on_from_a_cursor(branch: alknet_fs.Branch) -> None:
    with branch.watch(timeout=0) as watch:
        assert watch.next(0) is None
        for name in "abc":
            branch.write_bytes(f"/{name}", b"")
        first = watch.next(0)
        assert first is not None
        assert (first.path, watch.cursor) == ("/a", first.cursor)
    assert watch.closed
    assert list(watch) == []
    with pytest.raises(alknet_fs.BadHandle):
        watch.next(0)
    assert [event.path for event in branch.watch(after=first.cursor, timeout=0)] == ["/b", "/c"]


def test_waiting(branch: alknet_fs.Branch) -> None:
    with branch.watch() as watch:
        writer = threading.Timer(0.2, branch.write_bytes, ("/a", b""))
        writer.start()
        event = watch.next(30)
        writer.join()
        assert event is not None
        assert event.path == "/a"
        start = time.monotonic()
        assert watch.next(0.2) is None
        assert 0.15 < time.monotonic() - start < 10
    for timeout in (-1, float("nan")):
        with branch.watch() as watch, pytest.raises(ValueError, match="timeout"):
            watch.next(timeout)


def test_close_from_another_thread(branch: alknet_fs.Branch) -> None:
    watch = branch.watch()
    found: list[alknet_fs.Event] = []
    waiter = threading.Thread(target=lambda: found.extend(watch))
    waiter.start()
    branch.write_bytes("/a", b"")
    deadline = time.monotonic() + 30
    while not found and time.monotonic() < deadline:
        time.sleep(0.01)
    watch.close()
    waiter.join(30)
    assert not waiter.is_alive()
    assert [event.path for event in found] == ["/a"]


def test_other_processes_are_seen(tmp_path: Path) -> None:
    store = alknet_fs.open(tmp_path / "store")
    with store.branch().watch() as watch:
        program = "import alknet_fs, sys; alknet_fs.open(sys.argv[1]).branch().mkdir('/d')"
        subprocess.run([sys.executable, "-c", program, tmp_path / "store"], check=True)
        event = watch.next(30)
    assert event is not None
    assert (event.op, event.path, event.kind) == ("create", "/d", "dir")


def test_pruned(store: alknet_fs.Store) -> None:
    branch = store.branch()
    for number in range(20):
        branch.write_bytes("/a", str(number).encode())
    bucket = branch.bucket
    assert bucket.prune_events(before_ns=0) == 0
    assert bucket.prune_events(at_most=5) == 15
    assert len(branch.log()) == 5
    with pytest.raises(alknet_fs.Lagged):
        list(branch.events())
    assert bucket.prune_events(before_ns=time.time_ns()) == 5
    assert branch.log() == []


INTERRUPTED = """
import alknet_fs, signal, sys
# Whoever runs the tests in the background may have it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
branch = alknet_fs.memory().branch()
try:
    with branch.watch() as watch:
        print("waiting", flush=True)
        for event in watch:
            pass
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_keyboard_interrupt_ends_the_wait() -> None:
    child = subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "waiting\n"
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "interrupted\n"
        assert child.wait(30) == 0
