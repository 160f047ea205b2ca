from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import alknet_fs


def test_stats(store: alknet_fs.Store) -> None:
    branch = store.branch()
    branch.write_bytes("/a", b"same")
    branch.write_bytes("/b", b"same")
    branch.snapshot("s")
    branch.fork("other")
    with branch.open_session("/c"):
        stats = store.stats()
    assert (stats.buckets, stats.branches, stats.snapshots, stats.sessions) == (1, 2, 1, 1)
    assert (stats.contents, stats.content_bytes, stats.inline_contents) == (1, 4, 1)
    assert stats.free_bytes >= 0
    assert (stats.stored_bytes > 0) == (store.path is not None)
    assert repr(stats).startswith("<Stats buckets=1 branches=2 ")
    assert repr(store.gc(dry_run=True)).endswith(" files_deferred=False>")


def test_fsck(store: alknet_fs.Store) -> None:
    store.branch().write_bytes("/a", b"x" * 200_000)
    seen: list[alknet_fs.Progress] = []
    report = store.fsck(progress=seen.append)
    assert (report.contents, report.bytes, report.problems) == (1, 200_000, [])
    assert seen[-1].total_files == 1
    assert store.fsck(fast=True).bytes == 0


def test_fsck_finds_damage(tmp_path: Path) -> None:
    with alknet_fs.open(tmp_path / "store") as store:
        branch = store.branch()
        branch.write_bytes("/a", b"x" * 200_000)
        hash = branch.stat("/a").hash
        assert hash is not None
        (blob,) = [p for p in (tmp_path / "store" / "blobs").rglob("*") if p.is_file()]
        blob.chmod(0o600)
        blob.write_bytes(b"y" * 200_000)
        (problem,) = store.fsck().problems
        assert hash in problem.subject
        assert problem.uses == ["default/main:/a"]
        assert problem.more_uses == 0
        with pytest.raises(alknet_fs.Corrupt):
            branch.verify("/a")


def test_gc(store: alknet_fs.Store) -> None:
    branch = store.branch()
    branch.write_bytes("/a", b"x" * 200_000)
    branch.remove("/a")
    assert store.gc(dry_run=True, grace=0).contents == 1
    assert store.stats().contents == 1
    report = store.gc(grace=0, keep_events=1)
    assert (report.contents, report.content_bytes) == (1, 200_000)
    assert report.events == 1
    assert store.stats().contents == 0
    with pytest.raises(ValueError, match="grace"):
        store.gc(grace=-1)
    with pytest.raises(ValueError, match="keep_events_for"):
        store.gc(keep_events_for=float("nan"))
    assert store.compact() >= 0


def test_schedule(tmp_path: Path) -> None:
    with alknet_fs.open(tmp_path / "store") as store:
        assert store.gc_schedule() is None
        assert store.gc_if_due() is None
        store.schedule_gc("@every 6h", grace=60, keep_events=100)
        schedule = store.gc_schedule()
        assert schedule is not None
        assert schedule.when == "@every 6h"
        assert schedule.next_ns > 0
        with pytest.raises(alknet_fs.InvalidInput):
            store.schedule_gc("whenever")
        assert store.unschedule_gc()
        assert not store.unschedule_gc()
    with pytest.raises(alknet_fs.Unsupported):
        alknet_fs.memory().schedule_gc("@every 6h")


def test_sharing(store: alknet_fs.Store) -> None:
    main = store.branch()
    main.write_bytes("/a", b"x" * 1000)
    agent = main.fork("agent")
    agent.write_bytes("/b", b"y" * 10)
    sharing = main.bucket.sharing(["main", "agent"])
    assert (sharing.stored, sharing.apart) == (1010, 2010)
    assert [(t.tree, t.files, t.shared) for t in sharing.trees] == [
        ("main", 1, 1000),
        ("agent", 2, 1000),
    ]
    with pytest.raises(TypeError):
        main.bucket.sharing("main")
    with pytest.raises(FileNotFoundError):
        main.bucket.sharing(["missing"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    for number in range(50):
        (folder / "sub" / f"{number}.txt").write_text(str(number))
    (folder / "big").write_bytes(os.urandom(300_000))
    (folder / "link").symlink_to("big")
    return folder


def test_import_and_export(branch: alknet_fs.Branch, folder: Path, tmp_path: Path) -> None:
    seen: list[alknet_fs.Progress] = []
    report = branch.import_(folder, "/in", exclude=["1*.txt"], progress=seen.append)
    assert (report.files, report.dirs, report.symlinks) == (40, 1, 1)
    assert report.skipped == []
    assert seen[-1].files == 42
    assert branch.read_bytes("/in/big") == (folder / "big").read_bytes()
    (folder / "big").unlink()
    assert branch.import_(str(folder), "/in", delete=True, exclude=["1*.txt"]).removed == 1
    target = tmp_path / "target"
    exported = branch.export("/in", target, sync=True)
    assert (exported.files, exported.symlinks) == (39, 1)
    assert (target / "sub" / "2.txt").read_text() == "2"
    with pytest.raises(alknet_fs.NotEmpty):
        branch.export("/in", target)
    with branch.view() as view:
        assert view.export("/in", target, overwrite=True).files == 39
    with pytest.raises(FileNotFoundError):
        branch.import_(tmp_path / "missing")


def test_cancelled(branch: alknet_fs.Branch, folder: Path, tmp_path: Path) -> None:
    branch.write_bytes("/f", b"x")
    cancel = alknet_fs.Cancel()
    cancel.cancel()
    assert cancel.cancelled
    for work in (
        lambda: branch.import_(folder, cancel=cancel),
        lambda: branch.bucket.sharing(["main"], cancel=cancel),
        lambda: branch.export("/", tmp_path / "out", cancel=cancel),
        lambda: branch.bucket.store.fsck(cancel=cancel),
        lambda: branch.bucket.store.gc(cancel=cancel),
    ):
        with pytest.raises(alknet_fs.Cancelled):
            work()


def test_cancelled_by_another_thread(branch: alknet_fs.Branch, folder: Path) -> None:
    cancel = alknet_fs.Cancel()
    reached = threading.Event()

    def progress(_: alknet_fs.Progress) -> None:
        reached.set()
        while not cancel.cancelled:
            pass

    def stop() -> None:
        assert reached.wait(30)
        cancel.cancel()

    stopper = threading.Thread(target=stop)
    stopper.start()
    for number in range(2000):
        (folder / f"{number}").write_text(str(number))
    with pytest.raises(alknet_fs.Cancelled):
        while True:
            branch.import_(folder, f"/{len(branch.listdir())}", progress=progress, cancel=cancel)
    stopper.join()


def test_an_exception_in_progress_ends_the_work(branch: alknet_fs.Branch, folder: Path) -> None:
    def progress(_: alknet_fs.Progress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        branch.import_(folder, progress=progress)
    with pytest.raises(ZeroDivisionError):
        branch.bucket.store.fsck(progress=progress)


INTERRUPTED = """
import alknet_fs, pathlib, signal, sys
# Whoever runs the tests in the background may have it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
branch = alknet_fs.memory().branch()
number = 0
try:
    print("ready", flush=True)
    while True:
        branch.import_(sys.argv[1], f"/{number}")
        number += 1
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_keyboard_interrupt_ends_the_work(folder: Path) -> None:
    program = [sys.executable, "-c", INTERRUPTED, str(folder)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "interrupted\n"
        assert child.wait(30) == 0


def test_readers(store: alknet_fs.Store) -> None:
    branch = store.branch()
    branch.write_bytes("/a", b"0123456789")
    with branch.open_reader("/a") as reader:
        branch.write_bytes("/a", b"other")
        assert (reader.size, reader.pread(3, 2)) == (10, b"234")
        hash = reader.hash
    with pytest.raises(alknet_fs.BadHandle):
        reader.pread(1, 0)
    with branch.open_content(hash) as reader, branch.view() as view:
        assert reader.pread(2**70, 5) == b"56789"
        assert view.open_content(hash).form == "inline"
    with pytest.raises(FileNotFoundError):
        branch.open_content("0" * 64)
    with pytest.raises(alknet_fs.InvalidInput):
        branch.open_content("0")
    assert branch.read_range("/a", 1, 3) == b"the"
    assert branch.read_range("/a", 3) == b"er"
    assert branch.view().read_range("/a", 9) == b""
    with pytest.raises(ValueError, match="negative"):
        branch.read_range("/a", -1)
