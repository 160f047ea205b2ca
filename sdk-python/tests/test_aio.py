from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typing_extensions import assert_type

import alknet_fs
from alknet_fs import aio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def in_loop(main: Callable[[aio.Branch], Awaitable[None]], store: alknet_fs.Store) -> None:
    async def run() -> None:
        branch = await aio.Store(store).branch()
        await asyncio.wait_for(main(branch), 60)

    asyncio.run(run(), debug=False)
    threads = [t.name for t in threading.enumerate() if t.name.startswith("alknet-fs-watch")]
    assert threads == []


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_calls(store: alknet_fs.Store) -> None:
    async def main(branch: aio.Branch) -> None:
        assert_type(await branch.write_bytes("/a", b"x"), int)
        assert_type(await branch.stat("/a", follow_symlinks=False), alknet_fs.Entry)
        assert await branch.read_text("/a") == "x"
        assert (await branch.stat("/a")).size == 1
        await branch.makedirs("/d/e", exist_ok=True)
        await branch.rename("/a", "/d/a")
        assert [entry.path for entry in await branch.find()] == ["/d", "/d/a", "/d/e"]
        walked = [step async for step in branch.walk("/d")]
        assert walked == [("/d", ["e"], ["a"]), ("/d/e", [], [])]
        assert await branch.glob("a") == ["/d/a"]
        with pytest.raises(FileNotFoundError):
            await branch.read_bytes("/missing")
        with pytest.raises(TypeError):
            await branch.read_bytes(1)  # type: ignore[arg-type]  # pyright: ignore
        await branch.snapshot("s")
        agent = await branch.fork("agent")
        await agent.write_text("/new", "new")
        (difference,) = await branch.diff(agent)
        assert (difference.what, difference.path) == ("added", "/new")
        assert await branch.diff("agent") == [difference]
        assert await branch.bucket.diff(branch, "agent") == [difference]
        async with branch.view("s") as view:
            assert await branch.bucket.diff(view, agent) == [difference]
            assert await branch.diff(view) == []
        assert (await agent.name(), agent.bucket) == ("agent", branch.bucket)
        assert await branch.bucket.name() == "default"
        assert agent == await branch.bucket.branch("agent")
        assert agent != branch
        async with branch.view() as view:
            await branch.write_bytes("/d/a", b"later")
            assert await view.read_bytes("/d/a") == b"x"
            async with view.open("/d/a", "rb") as file:
                assert await file.read() == b"x"
        async with branch.open_reader("/d/a") as reader:
            assert await reader.pread(3, 1) == b"ate"
        assert [event.path for event in await branch.log(1)] == ["/d/a"]
        assert (await branch.bucket.store.stats()).branches == 2
        assert "help" not in (aio.Branch.stat.__doc__ or "help")

    in_loop(main, store)


def test_stores(tmp_path: Path) -> None:
    async def main() -> None:
        async with aio.open(tmp_path / "store", author="me") as store:
            assert store.path == tmp_path / "store"
            await store.create_bucket("b")
            assert await store.buckets() == ["b", "default"]
            branch = await store.branch("main", "b")
            await branch.write_bytes("/a", b"x")
            assert (await branch.log())[0].author == "me"
        assert store.closed
        with pytest.raises(alknet_fs.BadHandle):
            await branch.read_bytes("/a")
        with pytest.raises(FileExistsError):
            await aio.create(tmp_path / "store")
        again = await aio.open(tmp_path / "store", create=False)
        assert await (await again.branch("main", "b")).read_bytes("/a") == b"x"
        await again.close()

    asyncio.run(main())


def test_files(store: alknet_fs.Store) -> None:
    async def main(branch: aio.Branch) -> None:
        async with branch.open("/a", "w", newline="\r\n") as text:
            assert_type(text, aio.TextFile)
            assert await text.write("one\n") == 4
            await text.writelines(["two\n", "three\n"])
            assert (text.name, text.mode, text.writable()) == ("/a", "w", True)
            assert not await branch.exists("/a")
        assert text.closed
        async with branch.open("/a") as text:
            assert [line async for line in text] == ["one\n", "two\n", "three\n"]
        async with branch.open("/a", "rb") as binary:
            assert_type(await binary.read(3), bytes)
            assert await binary.tell() == 3
            await binary.seek(0)
            assert await binary.readline() == b"one\r\n"
            assert len(await binary.readlines()) == 2
        async with branch.open("/a", "r+b") as binary:
            await binary.write(b"ONE")
            assert await binary.pread(5, 0) == b"ONE\r\n"
            await binary.truncate(5)
            await binary.flush()
            assert (await binary.stat()).size == 5
        assert await branch.read_bytes("/a") == b"ONE\r\n"
        file = await branch.open("/b", "w")
        await file.write("x")
        await file.abort()
        assert not await branch.exists("/b")
        with pytest.raises(ZeroDivisionError):
            async with branch.open("/b", "w") as file:
                raise ZeroDivisionError
        assert not await branch.exists("/b")
        with pytest.raises(FileNotFoundError):
            await branch.open("/missing")

    in_loop(main, store)


def test_batches_and_sessions(store: alknet_fs.Store) -> None:
    async def main(branch: aio.Branch) -> None:
        async with branch.batch() as batch:
            await batch.makedirs("/d")
            await batch.write_text("/d/a", "a")
            assert (len(batch), bool(batch), batch.content_bytes) == (3, True, 1)
            assert not await branch.exists("/d")
        assert batch.closed
        assert await branch.listdir("/d") == ["a"]
        with pytest.raises(ZeroDivisionError):
            async with branch.batch() as batch:
                await batch.write_bytes("/b", b"")
                raise ZeroDivisionError
        async with branch.open_session("/s") as session:
            await session.append(b"abc")
            await session.pwrite(b"X", 1)
            assert (await session.size(), session.path) == (3, "/s")
            assert await session.pread(3, 0) == b"aXc"
        assert await branch.read_bytes("/s") == b"aXc"
        session = await branch.open_session("/s")
        number = await session.detach()
        assert [info.id for info in await branch.sessions()] == [number]
        async with branch.bucket.store.resume_session(number) as session:
            await session.append(b"d")
        assert await branch.read_bytes("/s") == b"aXcd"
        assert await branch.listdir() == ["d", "s"]

    in_loop(main, store)


@pytest.mark.parametrize("what", ["text", "raw", "session", "batch"])
def test_a_cancellation_aborts(store: alknet_fs.Store, what: str) -> None:
    async def write(branch: aio.Branch, begun: asyncio.Event) -> None:
        if what == "text":
            async with branch.open("/a", "w") as text:
                await text.write("new")
                begun.set()
                await asyncio.Event().wait()
        elif what == "raw":
            async with branch.open("/a", "wb", 0) as binary:
                await binary.write(b"new")
                begun.set()
                await asyncio.Event().wait()
        elif what == "session":
            async with branch.open_session("/a") as session:
                await session.append(b"new")
                begun.set()
                await asyncio.Event().wait()
        else:
            async with branch.batch() as batch:
                await batch.write_bytes("/a", b"new")
                begun.set()
                await asyncio.Event().wait()

    async def main(branch: aio.Branch) -> None:
        await branch.write_bytes("/a", b"old")
        begun = asyncio.Event()
        task = asyncio.create_task(write(branch, begun))
        await begun.wait()
        await cancelled(task)
        assert await branch.read_bytes("/a") == b"old"
        assert await branch.sessions() == []

    in_loop(main, store)


def test_a_cancellation_at_any_moment_leaves_nothing_open(store: alknet_fs.Store) -> None:
    async def write(branch: aio.Branch, name: str) -> None:
        async with branch.open(name, "wb") as file:
            for _ in range(3):
                await file.write(b"x" * 70_000)

    async def main(branch: aio.Branch) -> None:
        for number in range(60):
            task = asyncio.create_task(write(branch, f"/{number}"))
            for _ in range(number):
                await asyncio.sleep(0)
            await asyncio.sleep(0.0005 * (number % 7))
            task.cancel()
            await asyncio.wait([task])
            assert await branch.sessions() == []
        for name in await branch.listdir():
            assert (await branch.stat(name)).size == 210_000

    in_loop(main, store)


@pytest.mark.parametrize("what", ["text", "raw", "session", "batch", "view", "store"])
def test_cancelled_twice_while_all_threads_are_busy(tmp_path: Path, what: str) -> None:
    async def use(store: aio.Store, begun: asyncio.Event) -> None:
        branch = await store.branch()
        opened: dict[str, Any] = {
            "text": lambda: branch.open("/a", "w"),
            "raw": lambda: branch.open("/a", "wb", 0),
            "session": lambda: branch.open_session("/a", exclusive=True),
            "batch": branch.batch,
            "view": branch.view,
            "store": lambda: store,
        }
        async with opened[what]() as held:
            if what == "batch":
                await held.write_bytes("/a", b"x" * 400_000)
            begun.set()
            await asyncio.Event().wait()

    async def main() -> None:
        store = await aio.open(tmp_path / "store")
        begun = asyncio.Event()
        task = asyncio.create_task(use(store, begun))
        await begun.wait()
        pool, going_on = aio._executor(), threading.Event()
        busy = [pool.submit(going_on.wait, 60) for _ in range(pool._max_workers)]
        try:
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0.01)
            assert not task.done()
        finally:
            going_on.set()
        await asyncio.wait([task])
        assert task.cancelled()
        assert all(done.result() for done in busy)
        assert store.closed == (what == "store")
        again = await aio.open(tmp_path / "store")
        assert await again.sessions() == []
        await again.close()
        await store.close()

    asyncio.run(main())


def test_nothing_waits_for_a_call_that_goes_on(store: alknet_fs.Store) -> None:
    """The event loop reads attributes of what a thread works on, and does not stand still."""
    data = os.urandom(20_000_000)

    async def stands_still(batch: aio.Batch, session: aio.Session, work: Awaitable[int]) -> bool:
        """Tell whether the loop stood still for most of the time that the work took."""
        start = last = time.monotonic()
        longest = 0.0
        size, task = asyncio.ensure_future(session.size()), asyncio.ensure_future(work)
        while not task.done():
            assert (batch.closed, session.closed, session.path) == (False, False, "/b")
            # The work may end between the two.
            assert len(batch) in (0, 1)
            assert batch.content_bytes in (0, len(data))
            await asyncio.sleep(0.001)
            now = time.monotonic()
            longest, last = max(longest, now - last), now
        assert await size in (0, len(data))
        return longest > (last - start) / 2

    async def tries(branch: aio.Branch, what: str) -> bool:
        async with branch.batch() as batch, branch.open_session("/b", truncate=True) as session:
            if what == "batch":
                return await stands_still(batch, session, batch.write_bytes("/a", data))
            return await stands_still(batch, session, session.append(data))

    async def main(branch: aio.Branch) -> None:
        for what in ("batch", "session"):
            # A machine that is busy with other things may stand still once.
            assert not all([await tries(branch, what) for _ in range(5)])

    in_loop(main, store)


def test_a_cancelled_task_waits_for_the_call_it_is_in(store: alknet_fs.Store) -> None:
    async def main(branch: aio.Branch) -> None:
        data = os.urandom(20_000_000)
        task = asyncio.create_task(branch.write_bytes("/big", data))
        await asyncio.sleep(0.002)
        task.cancel()
        await asyncio.wait([task])
        there = await branch.exists("/big")
        await asyncio.sleep(0.05)
        assert await branch.exists("/big") == there

    in_loop(main, store)


def test_long_work_is_cancelled_and_followed(store: alknet_fs.Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(3000):
        (source / str(number)).write_bytes(b"x" * 100)

    async def main(branch: aio.Branch) -> None:
        seen: list[tuple[alknet_fs.Progress, str]] = []
        task = asyncio.create_task(
            branch.import_(
                source, "/in", progress=lambda p: seen.append((p, threading.current_thread().name))
            )
        )
        await until(lambda: bool(seen) or task.done())
        task.cancel()
        await asyncio.wait([task])
        assert {name for _, name in seen} == {"MainThread"}
        assert task.cancelled()
        count = len(await branch.listdir("/in"))
        await asyncio.sleep(0.1)
        assert len(await branch.listdir("/in")) == count
        report = await branch.import_(source, "/in")
        assert_type(report, alknet_fs.ImportReport)
        assert report.files == 3000
        switch = alknet_fs.Cancel()
        switch.cancel()
        with pytest.raises(alknet_fs.Cancelled):
            await branch.bucket.store.fsck(cancel=switch)
        assert (await branch.bucket.store.fsck()).problems == []
        assert (await branch.export("/in", tmp_path / "out")).files == 3000
        assert (await branch.bucket.store.gc(grace=0)).contents == 0

    in_loop(main, store)


def test_watching(store: alknet_fs.Store) -> None:
    async def main(branch: aio.Branch) -> None:
        seen: list[str | None] = []

        async def watch(started: aio.Watch) -> None:
            async for event in started:
                seen.append(event.path)
                if len(seen) == 300:
                    break

        async with branch.watch("*.txt") as started:
            watcher = asyncio.create_task(watch(started))
            async with branch.batch() as batch:
                for number in range(300):
                    await batch.write_bytes(f"/{number}.txt", b"")
            await branch.write_bytes("/no", b"")
            await watcher
            assert len(set(seen)) == 300
            assert await started.next(0) is None
        assert started.closed
        assert [event async for event in started] == []
        newest = [event.path async for event in branch.events("299.txt")]
        assert newest == ["/299.txt"]
        async with branch.bucket.watch(after=0, timeout=0) as found:
            first = await found.next()
            assert first is not None
            assert found.cursor == first.cursor
        async with branch.bucket.store.watch(after=first.cursor, timeout=0) as found:
            assert len([event async for event in found]) == 300
        later = branch.watch("*.txt", ops=["remove"], timeout=0)
        await branch.remove("/0.txt")
        assert [event async for event in later] == []
        await branch.remove("/1.txt")
        assert [event.path async for event in later] == ["/1.txt"]

    in_loop(main, store)


def test_a_cancelled_watch_loses_nothing_and_leaves_no_thread(store: alknet_fs.Store) -> None:
    async def main(branch: aio.Branch) -> None:
        async with branch.watch() as watch:
            for number in range(20):
                task = asyncio.create_task(watch.next())
                await asyncio.sleep(0.001 * number)
                if number % 2:
                    await branch.write_bytes(f"/{number}", b"")
                task.cancel()
                await asyncio.wait([task])
                names = [t.name for t in threading.enumerate()]
                assert "alknet-fs-watch" not in names
                if number % 2:
                    event = await task if not task.cancelled() else await watch.next(30)
                    assert event is not None
                    assert event.path == f"/{number}"
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(watch.next(), 0.05)

    in_loop(main, store)


def test_closing_ends_a_wait(store: alknet_fs.Store) -> None:
    async def main(branch: aio.Branch) -> None:
        watch = await branch.watch()

        async def wait() -> int:
            return len([event async for event in watch])

        task = asyncio.create_task(wait())
        await asyncio.sleep(0.05)
        await watch.close()
        assert await task == 0

    in_loop(main, store)


def test_many_watches_do_not_stop_other_work(store: alknet_fs.Store) -> None:
    async def main(branch: aio.Branch) -> None:
        watches = [await branch.watch() for _ in range(60)]
        tasks = [asyncio.create_task(watch.next()) for watch in watches]
        await asyncio.sleep(0.05)
        await asyncio.wait_for(branch.write_bytes("/a", b""), 30)
        events = await asyncio.gather(*tasks)
        assert {event and event.path for event in events} == {"/a"}

    in_loop(main, store)


def test_paths(store: alknet_fs.Store) -> None:
    async def main(branch: aio.Branch) -> None:
        path = branch / "d" / "a.txt"
        assert_type(path, aio.Path)
        await path.parent.mkdir(parents=True, exist_ok=True)
        assert await path.write_text("x") == 1
        async with path.open() as file:
            assert await file.read() == "x"
        assert [str(found) async for found in branch.path().rglob("*.txt")] == ["/d/a.txt"]
        assert [found async for found in path.parent.iterdir()] == [path]
        moved = await path.rename("/d/b.txt")
        assert (moved.name, await path.exists()) == ("b.txt", False)
        assert (await moved.copy("/c")).tree == branch
        await (branch / "l").symlink_to("c")
        assert str(await (branch / "l").resolve()) == "/c"
        assert str(await (branch / "l").readlink()) == "c"
        assert [str(p) async for p, _, _ in branch.path().walk()] == ["/", "/d"]
        await (branch / "missing").unlink(missing_ok=True)
        assert path == branch.path("d", "a.txt")

    in_loop(main, store)


def test_concurrent_tasks(store: alknet_fs.Store) -> None:
    async def main(branch: aio.Branch) -> None:
        await asyncio.gather(*(branch.write_bytes(f"/{n}", b"%d" % n) for n in range(200)))
        read = await asyncio.gather(*(branch.read_bytes(f"/{n}") for n in range(200)))
        assert read == [b"%d" % n for n in range(200)]
        async with branch.open("/shared", "w") as file:
            await asyncio.gather(*(file.write("0123456789") for _ in range(50)))
        assert await branch.read_text("/shared") == "0123456789" * 50

    in_loop(main, store)


def test_the_loop_goes_on_meanwhile(store: alknet_fs.Store) -> None:
    async def main(branch: aio.Branch) -> None:
        data = os.urandom(50_000_000)
        task = asyncio.create_task(branch.write_bytes("/big", data))
        longest, last = 0.0, time.monotonic()
        while not task.done():
            await asyncio.sleep(0)
            now = time.monotonic()
            longest, last = max(longest, now - last), now
        assert await task == len(data)
        assert longest < 1

    in_loop(main, store)


def child(path: Path) -> None:
    async def main() -> None:
        async with aio.open(path) as store:
            await (await store.branch()).write_bytes("/child", b"x")

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_after_a_fork_there_are_threads_again(tmp_path: Path) -> None:
    path = tmp_path / "store"
    child(path)
    process = multiprocessing.get_context("fork").Process(target=child, args=(path,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
