"""The same API with ``await``.

Every call runs in one of a few threads, with the interpreter's lock released, and the event loop
goes on meanwhile. A task that is cancelled first waits for the end of the call it is in, so that
nothing goes on behind its back; long work (``import_``, ``export``, ``fetch``, ``fsck``, ``gc``,
``sharing``), watches and calls that wait for contents that are elsewhere are told to stop. An
``async with`` block that a cancellation leaves throws away what it was writing: a file, a session
or a batch. A cancellation that arrives while the commit at the end of a block, or any other change,
is under way may come too late: then the change was made.

>>> import asyncio
>>> from alknet_fs import aio
>>> async def main():
...     async with aio.memory() as store:
...         branch = await store.branch()
...         async with branch.watch("*.txt") as watch:
...             async with branch.open("/hello.txt", "w") as file:
...                 await file.write("hello")
...             async for event in watch:
...                 return event.op, await branch.read_text(event.path)
>>> asyncio.run(main())
('create', 'hello')
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import functools
import os
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import (
    TYPE_CHECKING,
    Any,
    AnyStr,
    Concatenate,
    Generic,
    ParamSpec,
    TypeVar,
    cast,
    overload,
)

from . import _files, _native, _node, _path, _session, _tree, _watch
from ._errors import BadHandle, make

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
    from pathlib import PurePosixPath
    from types import TracebackType
    from typing import Literal

    from typing_extensions import Buffer, Self

    from ._modes import (
        EntryKind,
        EventOp,
        OpenBinaryMode,
        OpenBinaryModeReading,
        OpenTextMode,
        OpenTextModeReading,
    )
    from ._native import Event, Progress
    from ._path import Part
    from ._tree import StrPath

__all__ = [
    "Batch",
    "BinaryFile",
    "Branch",
    "Bucket",
    "Node",
    "Path",
    "Reader",
    "Session",
    "Store",
    "TextFile",
    "View",
    "Watch",
    "create",
    "memory",
    "open",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_R_co = TypeVar("_R_co", covariant=True)
_Handle = TypeVar("_Handle", bound="AbstractAsyncContextManager[Any]")
_Sync = TypeVar("_Sync", bound="_tree.Branch | _tree.View")

# Threads.

_pool: concurrent.futures.ThreadPoolExecutor | None = None


_waiting_pool: concurrent.futures.ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    global _pool, _waiting_pool
    _pool = _waiting_pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _executor() -> concurrent.futures.ThreadPoolExecutor:
    global _pool
    if _pool is None:
        workers = min(32, (os.cpu_count() or 1) + 4)
        _pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="alknet-fs")
    return _pool


def _waiting_executor() -> concurrent.futures.ThreadPoolExecutor:
    """Return the threads of calls that wait for other nodes: many, as they do nothing else."""
    global _waiting_pool
    if _waiting_pool is None:
        name = "alknet-fs-waiting"
        _waiting_pool = concurrent.futures.ThreadPoolExecutor(256, thread_name_prefix=name)
    return _waiting_pool


async def _end_of(done: asyncio.Future[Any]) -> bool:
    """Wait until a future is done, however often the task is cancelled; tell whether it was."""
    cancelled = False
    while not done.done():
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError:
            cancelled = True
    return cancelled


async def _surely(work: Callable[[], object]) -> None:
    """Call a function in a thread to its end, also for a task that is cancelled meanwhile."""
    done = asyncio.wrap_future(_executor().submit(work))
    cancelled = await _end_of(done)
    done.result()
    if cancelled:
        raise asyncio.CancelledError


async def _run(
    work: Callable[[], _R],
    *,
    stop: Callable[[], object] | None = None,
    undo: Callable[[_R], object] | None = None,
) -> _R:
    """Call a function in a thread.

    If the task is cancelled, work that has not begun never does; other work is told to ``stop``,
    its end is awaited, and its result is given to ``undo``.

    Where it has to wait for contents that are elsewhere, it does so in a thread for that.
    """

    def undo_done(result: tuple[bool, _R]) -> None:
        if undo is not None and result[0]:
            undo(result[1])

    at_once = functools.partial(_native.call_without_waiting, work)
    is_done, result = await _run_in(_executor(), at_once, stop, undo_done)
    if is_done:
        return result
    switch = _native.Cancel()

    def stop_waiting() -> None:
        switch.cancel()
        if stop is not None:
            stop()

    waiting = functools.partial(_native.call_stoppably, work, switch)
    return await _run_in(_waiting_executor(), waiting, stop_waiting, undo)


async def _run_in(
    executor: concurrent.futures.ThreadPoolExecutor,
    work: Callable[[], _R],
    stop: Callable[[], object] | None,
    undo: Callable[[_R], object] | None,
) -> _R:
    future = executor.submit(work)
    done = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        if not future.cancel():
            if stop is not None:
                stop()
            await _end_of(done)
            if done.exception() is None and undo is not None:
                await _surely(functools.partial(undo, done.result()))
        raise


async def _call(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    return await _run(functools.partial(function, *args, **kwargs))


# What makes a method with ``await`` out of one without.


class _Awaits(Generic[_P, _R_co]):
    """How type checkers see a method that :func:`_awaits` made."""

    def __get__(
        self, instance: object, owner: type | None = None
    ) -> Callable[_P, Coroutine[Any, Any, _R_co]]:
        raise NotImplementedError


def _awaits(method: Callable[Concatenate[Any, _P], _R]) -> _Awaits[_P, _R]:
    """Make a method with ``await`` that calls one of the synchronous object in a thread."""

    @functools.wraps(method)
    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await _run(functools.partial(method, self._sync, *args, **kwargs))

    return cast("_Awaits[_P, _R]", call)


def _awaits_long(
    method: Callable[Concatenate[Any, _P], _R], *, waits: bool = False
) -> _Awaits[_P, _R]:
    """Do the same for long work: a cancelled task stops it, and the loop's thread follows it.

    What ``waits`` for other nodes does so in a thread for that.
    """

    @functools.wraps(method)
    async def call(
        self: Any,
        *args: Any,
        progress: Callable[[Progress], object] | None = None,
        cancel: _native.Cancel | None = None,
        **kwargs: Any,
    ) -> Any:
        switch = _native.Cancel() if cancel is None else cancel
        if progress is not None:
            loop = asyncio.get_running_loop()
            follow = functools.partial(loop.call_soon_threadsafe, cast("Any", progress))
            kwargs["progress"] = follow
        kwargs["cancel"] = switch
        work = functools.partial(method, self._sync, *args, **kwargs)
        if waits:
            return await _run_in(_waiting_executor(), work, switch.cancel, None)
        return await _run(work, stop=switch.cancel)

    return cast("_Awaits[_P, _R]", call)


class _Opening(Generic[_Handle]):
    """What opens something: ``await`` it, or use it with ``async with``."""

    def __init__(self, opening: Callable[[], Coroutine[Any, Any, _Handle]]) -> None:
        self._opening = opening
        self._opened: _Handle | None = None

    def __await__(self) -> Generator[Any, None, _Handle]:
        return self._opening().__await__()

    async def __aenter__(self) -> _Handle:
        self._opened = await self._opening()
        return cast("_Handle", await self._opened.__aenter__())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._opened is not None
        await self._opened.__aexit__(kind, error, trace)


def _opens(
    work: Callable[[], _R], wrap: Callable[[_R], _Handle], undo: Callable[[_R], object]
) -> _Opening[_Handle]:
    async def opening() -> _Handle:
        return wrap(await _run(work, undo=undo))

    return _Opening(opening)


async def _leave(
    kind: type[BaseException] | None,
    commit: Callable[[], Awaitable[object]],
    abort: Callable[[], object],
) -> None:
    """Commit what a block was writing, or abort it if an exception or a cancellation leaves it."""
    try:
        if kind is None:
            await commit()
            return
    except BaseException:
        await _surely(functools.partial(_throw_away, abort))
        raise
    await _surely(functools.partial(_throw_away, abort))


def _throw_away(abort: Callable[[], object]) -> None:
    # A store that is closed has done it.
    with contextlib.suppress(BadHandle):
        abort()


# Files.


class _File(Generic[AnyStr]):
    """An open file; one call at a time goes on in it."""

    def __init__(self, file: Any, raw: _files.File) -> None:
        self._sync = file
        self._raw = raw
        self._lock = asyncio.Lock()

    async def _in_turn(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        async with self._lock:
            return await _call(function, *args, **kwargs)

    @property
    def name(self) -> str:
        """The path, links resolved."""
        return self._raw.name

    @property
    def mode(self) -> str:
        """The mode it was opened with."""
        return cast("str", self._sync.mode)

    @property
    def closed(self) -> bool:
        """Whether the file was closed."""
        return self._raw.closed

    def readable(self) -> bool:
        """Tell whether the file can be read."""
        return self._raw.readable()

    def writable(self) -> bool:
        """Tell whether the file can be written."""
        return self._raw.writable()

    async def read(self, size: int = -1) -> AnyStr:
        """Read up to ``size`` characters or bytes, or all that is left."""
        return cast("AnyStr", await self._in_turn(self._sync.read, size))

    async def readline(self, size: int = -1) -> AnyStr:
        """Read up to the end of the line."""
        return cast("AnyStr", await self._in_turn(self._sync.readline, size))

    async def readlines(self) -> list[AnyStr]:
        """Read all lines that are left."""
        return cast("list[AnyStr]", await self._in_turn(self._sync.readlines))

    async def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position."""
        return cast("int", await self._in_turn(self._sync.seek, offset, whence))

    async def tell(self) -> int:
        """Return the position."""
        return cast("int", await self._in_turn(self._sync.tell))

    async def truncate(self, size: int | None = None) -> int:
        """Cut the file, or extend it with zeros, to ``size`` or to the position."""
        return cast("int", await self._in_turn(self._sync.truncate, size))

    async def flush(self) -> None:
        """Hand over what is buffered; the branch shows it after the close."""
        await self._in_turn(self._sync.flush)

    async def stat(self) -> _native.Entry:
        """Return what is known of the file, with the size it has now."""
        return await self._in_turn(self._raw.stat)

    async def close(self) -> None:
        """Commit what was written. Where that fails, the file stays open with all of it."""
        await self._in_turn(self._sync.close)

    async def abort(self) -> None:
        """Close the file and throw away what was written."""
        await self._in_turn(self._raw.abort)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AnyStr:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Commit, or abort if the block was left by an exception."""
        await _leave(kind, self.close, functools.partial(_files.abort, self._raw))


class TextFile(_File[str]):
    """A file opened as text."""

    async def write(self, data: str) -> int:
        """Write text; returns its characters."""
        return cast("int", await self._in_turn(self._sync.write, data))

    async def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        await self._in_turn(self._sync.writelines, lines)


class BinaryFile(_File[bytes]):
    """A file opened as bytes."""

    async def write(self, data: Buffer) -> int:
        """Write bytes; returns how many."""
        return cast("int", await self._in_turn(self._sync.write, data))

    async def writelines(self, lines: Iterable[Buffer]) -> None:
        """Write several times."""
        await self._in_turn(self._sync.writelines, lines)

    async def pread(self, size: int, offset: int) -> bytes:
        """Read up to ``size`` bytes at an offset; the position stays."""
        if self._sync is not self._raw and self._raw.writable():
            await self.flush()
        return await self._in_turn(self._raw.pread, size, offset)


def _file(file: Any) -> TextFile | BinaryFile:
    if isinstance(file, _files.TextFile):
        return TextFile(file, _files.raw_of(file))
    return BinaryFile(file, file if isinstance(file, _files.File) else file.raw)


def _abort_file(file: Any) -> None:
    file.abort()


class Session:
    """A file open for writing at any offset; see :class:`alknet_fs.Session`."""

    def __init__(self, session: _session.Session) -> None:
        self._sync = session

    @property
    def id(self) -> int:
        """The number by which the session can be found after a crash."""
        return self._sync.id

    @property
    def path(self) -> str:
        """The path the session will write, links resolved."""
        return self._sync.path

    async def size(self) -> int:
        """Return the size the file has in this session, in bytes."""
        return await _call(lambda: self._sync.size)

    @property
    def closed(self) -> bool:
        """Whether the session was closed, aborted or detached."""
        return self._sync.closed

    pread = _awaits(_session.Session.pread)
    pwrite = _awaits(_session.Session.pwrite)
    append = _awaits(_session.Session.append)
    truncate = _awaits(_session.Session.truncate)
    sync = _awaits(_session.Session.sync)
    close = _awaits(_session.Session.close)
    abort = _awaits(_session.Session.abort)
    detach = _awaits(_session.Session.detach)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Commit, unless that was done, or abort if the block was left by an exception."""
        if not self.closed:
            await _leave(kind, self.close, self._abort_open)

    def _abort_open(self) -> None:
        if not self._sync.closed:
            self._sync.abort()


class Reader:
    """Reads one version of a file; see :class:`alknet_fs.Reader`."""

    def __init__(self, reader: _native.Reader) -> None:
        self._sync = reader

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        return self._sync.size

    @property
    def hash(self) -> str:
        """The BLAKE3 hash of the bytes as 64 hexadecimal digits."""
        return self._sync.hash

    pread = _awaits(_native.Reader.pread)
    close = _awaits(_native.Reader.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await _surely(self._sync.close)


class Batch:
    """Changes that are committed together; see :class:`alknet_fs.Batch`."""

    def __init__(self, batch: _tree.Batch) -> None:
        self._sync = batch

    @property
    def closed(self) -> bool:
        """Whether the batch was committed or aborted."""
        return self._sync.closed

    @property
    def content_bytes(self) -> int:
        """The number of content bytes collected so far."""
        return self._sync.content_bytes

    def __len__(self) -> int:
        return len(self._sync)

    def __bool__(self) -> bool:
        return True

    write_bytes = _awaits(_tree.Batch.write_bytes)
    write_text = _awaits(_tree.Batch.write_text)
    mkdir = _awaits(_tree.Batch.mkdir)
    makedirs = _awaits(_tree.Batch.makedirs)
    symlink = _awaits(_tree.Batch.symlink)
    remove = _awaits(_tree.Batch.remove)
    unlink = _awaits(_tree.Batch.unlink)
    rmdir = _awaits(_tree.Batch.rmdir)
    rmtree = _awaits(_tree.Batch.rmtree)
    rename = _awaits(_tree.Batch.rename)
    replace = _awaits(_tree.Batch.replace)
    copy = _awaits(_tree.Batch.copy)
    set_attrs = _awaits(_tree.Batch.set_attrs)
    chmod = _awaits(_tree.Batch.chmod)
    chown = _awaits(_tree.Batch.chown)
    utime = _awaits(_tree.Batch.utime)
    commit = _awaits(_tree.Batch.commit)
    abort = _awaits(_tree.Batch.abort)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Commit, unless that was done, or abort if the block was left by an exception."""
        if kind is not None or not self.closed:
            await _leave(kind, self.commit, self._sync.abort)


_AT_ONCE = 256


class Watch(AsyncIterator["_native.Event"]):
    """Iterates over events; see :class:`alknet_fs.Watch`.

    While something waits for an event, there is a thread that does; none at any other time. An
    event that arrives while the waiting task is cancelled is delivered to the next.
    """

    def __init__(self, native: _native.Watch, timeout: float | None) -> None:
        self._native = native
        self._timeout = timeout
        self._ready: collections.deque[Event] = collections.deque()
        self._cursor = native.cursor
        self._lock = asyncio.Lock()

    @property
    def cursor(self) -> int:
        """The position after the last event that was delivered, to pass as ``after``."""
        return self._cursor

    @property
    def closed(self) -> bool:
        """Whether the watch was closed."""
        return self._native.closed

    async def next(self, timeout: float | None = None) -> Event | None:
        """Wait for the next event, for ever or up to some seconds; ``None`` when they are over."""
        async with self._lock:
            if not self._ready:
                await self._fill(timeout)
            if not self._ready:
                self._cursor = self._native.cursor
                return None
            event = self._ready.popleft()
            self._cursor = event.cursor if self._ready else self._native.cursor
            return event

    async def _fill(self, timeout: float | None) -> None:
        """Wait for events in a thread of its own, which ends with the wait."""
        stop = _native.Cancel()
        future: concurrent.futures.Future[list[Event]] = concurrent.futures.Future()

        def wait() -> None:
            try:
                events = self._native.take(timeout, _AT_ONCE, stop)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(events)

        done = asyncio.wrap_future(future)
        thread = threading.Thread(target=wait, name="alknet-fs-watch", daemon=True)
        thread.start()
        try:
            self._ready.extend(await asyncio.shield(done))
        except asyncio.CancelledError:
            stop.cancel()
            await _end_of(done)
            if done.exception() is None:
                self._ready.extend(done.result())
            raise
        finally:
            thread.join()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        try:
            event = await self.next(self._timeout)
        except BadHandle:
            if self.closed:
                raise StopAsyncIteration from None
            raise
        if event is None:
            raise StopAsyncIteration
        return event

    async def close(self) -> None:
        """End the watch, also for a task that waits in it."""
        await _call(self._native.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await _surely(self._native.close)


class _Watching(_Opening[Watch], AsyncIterator["_native.Event"]):
    """What opens a watch; ``async for`` goes over its events without a name for it."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._opened is None:
            self._opened = await self._opening()
        return await self._opened.__anext__()


def _watches(work: Callable[[], _watch.Watch], timeout: float | None) -> _Watching:
    async def opening() -> Watch:
        return Watch((await _run(work, undo=_watch.Watch.close))._native, timeout)

    return _Watching(opening)


# Trees.


class _Reading(Generic[_Sync]):
    """What branches and views have in common."""

    def __init__(self, tree: _Sync) -> None:
        self._sync = tree

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(self._sync)

    stat = _awaits(_tree.View.stat)
    lstat = _awaits(_tree.View.lstat)
    exists = _awaits(_tree.View.exists)
    is_dir = _awaits(_tree.View.is_dir)
    is_file = _awaits(_tree.View.is_file)
    readlink = _awaits(_tree.View.readlink)
    realpath = _awaits(_tree.View.realpath)
    read_bytes = _awaits(_tree.View.read_bytes)
    read_text = _awaits(_tree.View.read_text)
    read_range = _awaits(_tree.View.read_range)
    listdir = _awaits(_tree.View.listdir)
    scandir = _awaits(_tree.View.scandir)
    find = _awaits(_tree.View.find)
    glob = _awaits(_tree.View.glob)
    verify = _awaits(_tree.View.verify)
    tree_hash = _awaits(_tree.View.tree_hash)
    export = _awaits_long(_tree.View.export)
    fetch = _awaits_long(_tree.View.fetch, waits=True)

    async def walk(
        self,
        top: StrPath = "/",
        topdown: bool = True,
        onerror: Callable[[OSError], object] | None = None,
        followlinks: bool = False,
    ) -> AsyncIterator[tuple[str, list[str], list[str]]]:
        """Walk through the directories at and below a path, as ``os.walk``."""
        steps = self._sync.walk(top, topdown, onerror, followlinks)
        while (step := await _call(next, steps, None)) is not None:
            yield step

    def open_reader(self, path: StrPath) -> _Opening[Reader]:
        """Open the file at a path as it is now, for reads that no later change affects."""
        work = functools.partial(self._sync.open_reader, path)
        return _opens(work, Reader, _native.Reader.close)

    def open_content(self, hash: str) -> _Opening[Reader]:
        """Open a content by its BLAKE3 hash, 64 hexadecimal digits, whatever path it has."""
        work = functools.partial(self._sync.open_content, hash)
        return _opens(work, Reader, _native.Reader.close)


class View(_Reading["_tree.View"]):
    """A branch or a snapshot at one point in time; see :class:`alknet_fs.View`."""

    close = _awaits(_tree.View.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await _surely(self._sync.close)

    def path(self, *parts: Part) -> Path:
        """Return a path of this tree with the feel of ``pathlib``."""
        return Path(self, *parts)

    def __truediv__(self, part: Part) -> Path:
        return Path(self, part)

    @overload
    def open(
        self,
        path: StrPath,
        mode: OpenTextModeReading = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> _Opening[TextFile]: ...

    @overload
    def open(
        self, path: StrPath, mode: OpenBinaryModeReading, buffering: int = -1
    ) -> _Opening[BinaryFile]: ...

    def open(self, path: StrPath, mode: str = "r", *args: Any, **kwargs: Any) -> _Opening[Any]:
        """Open a file for reading: ``async with view.open(path) as file``."""
        work = functools.partial(self._sync.open, path, mode, *args, **kwargs)
        return _opens(work, _file, _abort_file)


class Branch(_Reading["_tree.Branch"]):
    """A branch; see :class:`alknet_fs.Branch`."""

    def __repr__(self) -> str:
        return f"<alknet_fs.aio.Branch of {self._sync!r}>"

    @property
    def bucket(self) -> Bucket:
        """The bucket that the branch is in."""
        return Bucket(self._sync.bucket)

    async def name(self) -> str:
        """Return the branch's name as it is now."""
        return await _call(lambda: self._sync.name)

    info = _awaits(_tree.Branch.info)
    rename_to = _awaits(_tree.Branch.rename_to)
    snapshot = _awaits(_tree.Branch.snapshot)
    snapshots = _awaits(_tree.Branch.snapshots)
    rename_snapshot = _awaits(_tree.Branch.rename_snapshot)
    delete_snapshot = _awaits(_tree.Branch.delete_snapshot)
    restore = _awaits(_tree.Branch.restore)
    write_bytes = _awaits(_tree.Branch.write_bytes)
    write_text = _awaits(_tree.Branch.write_text)
    mkdir = _awaits(_tree.Branch.mkdir)
    makedirs = _awaits(_tree.Branch.makedirs)
    symlink = _awaits(_tree.Branch.symlink)
    link = _awaits(_tree.Branch.link)
    remove = _awaits(_tree.Branch.remove)
    unlink = _awaits(_tree.Branch.unlink)
    rmdir = _awaits(_tree.Branch.rmdir)
    rmtree = _awaits(_tree.Branch.rmtree)
    rename = _awaits(_tree.Branch.rename)
    replace = _awaits(_tree.Branch.replace)
    copy = _awaits(_tree.Branch.copy)
    set_attrs = _awaits(_tree.Branch.set_attrs)
    chmod = _awaits(_tree.Branch.chmod)
    chown = _awaits(_tree.Branch.chown)
    utime = _awaits(_tree.Branch.utime)
    truncate = _awaits(_tree.Branch.truncate)
    sessions = _awaits(_tree.Branch.sessions)
    log = _awaits(_tree.Branch.log)
    import_ = _awaits_long(_tree.Branch.import_)
    conflicts = _awaits(_tree.Branch.conflicts)
    resolve = _awaits(_tree.Branch.resolve)

    async def diff(
        self, other: str | Branch | View, path: StrPath = "/"
    ) -> list[_native.Difference]:
        """List what changes from this branch to another tree; see ``alknet_fs.Branch.diff``."""
        return await _call(self._sync.diff, _sync_tree(other), path)

    def view(self, snapshot: str | None = None) -> _Opening[View]:
        """Open a view of the branch as it is now, or of one of its snapshots."""
        return _opens(functools.partial(self._sync.view, snapshot), View, _tree.View.close)

    async def fetching(self, timeout: float | None = None) -> Branch:
        """Return the branch with another timeout; see ``alknet_fs.Branch.fetching``."""
        return Branch(await _call(self._sync.fetching, timeout))

    async def fork(self, name: str, snapshot: str | None = None) -> Branch:
        """Fork a branch off this one, or off one of its snapshots."""
        return Branch(await _call(self._sync.fork, name, snapshot))

    def batch(self) -> Batch:
        """Begin a batch of changes that are committed together."""
        return Batch(self._sync.batch())

    def path(self, *parts: Part) -> Path:
        """Return a path of this tree with the feel of ``pathlib``."""
        return Path(self, *parts)

    def __truediv__(self, part: Part) -> Path:
        return Path(self, part)

    @overload
    def open(
        self,
        path: StrPath,
        mode: OpenTextMode = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> _Opening[TextFile]: ...

    @overload
    def open(
        self, path: StrPath, mode: OpenBinaryMode, buffering: int = -1
    ) -> _Opening[BinaryFile]: ...

    def open(self, path: StrPath, mode: str = "r", *args: Any, **kwargs: Any) -> _Opening[Any]:
        """Open a file as the builtin ``open``: ``async with branch.open(path) as file``.

        What is written shows in the branch when the file is closed. If an exception or a
        cancellation leaves the block, nothing changes.
        """
        work = functools.partial(self._sync.open, path, mode, *args, **kwargs)
        return _opens(work, _file, _abort_file)

    def open_session(
        self,
        path: StrPath,
        *,
        create: bool = True,
        create_new: bool = False,
        truncate: bool = False,
        exclusive: bool = False,
        owner: str | None = None,
        mode: int | None = None,
    ) -> _Opening[Session]:
        """Open a file for writing at any offset; see ``alknet_fs.Branch.open_session``."""
        work = functools.partial(
            self._sync.open_session,
            path,
            create=create,
            create_new=create_new,
            truncate=truncate,
            exclusive=exclusive,
            owner=owner,
            mode=mode,
        )
        return _opens(work, Session, _session.Session.abort)

    def watch(
        self,
        glob: str | Iterable[str] | None = None,
        *,
        under: StrPath | None = None,
        directly_in: StrPath | None = None,
        ops: Iterable[EventOp] | None = None,
        kinds: Iterable[EntryKind] | None = None,
        after: int | None = None,
        timeout: float | None = None,
    ) -> _Watching:
        """Watch the branch from when the watch is opened; see ``alknet_fs.Branch.watch``.

        ``async with branch.watch() as watch`` opens it, and so do ``await`` and ``async for``.
        """
        work = functools.partial(
            self._sync.watch,
            glob,
            under=under,
            directly_in=directly_in,
            ops=ops,
            kinds=kinds,
            after=after,
        )
        return _watches(work, timeout)

    def events(
        self,
        glob: str | Iterable[str] | None = None,
        *,
        under: StrPath | None = None,
        directly_in: StrPath | None = None,
        ops: Iterable[EventOp] | None = None,
        kinds: Iterable[EntryKind] | None = None,
        after: int = 0,
    ) -> _Watching:
        """Iterate over the events that are there after a cursor, oldest first."""
        return self.watch(
            glob,
            under=under,
            directly_in=directly_in,
            ops=ops,
            kinds=kinds,
            after=after,
            timeout=0,
        )


def _sync_tree(tree: str | Branch | View) -> str | _tree.Branch | _tree.View:
    return tree if isinstance(tree, str) else tree._sync


class Bucket:
    """A bucket; see :class:`alknet_fs.Bucket`."""

    def __init__(self, bucket: _tree.Bucket) -> None:
        self._sync = bucket

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bucket) and self._sync == other._sync

    def __hash__(self) -> int:
        return hash(self._sync)

    @property
    def store(self) -> Store:
        """The store that the bucket is in."""
        return Store(self._sync.store)

    async def name(self) -> str:
        """Return the bucket's name as it is now."""
        return await _call(lambda: self._sync.name)

    branches = _awaits(_tree.Bucket.branches)
    delete_branch = _awaits(_tree.Bucket.delete_branch)
    log = _awaits(_tree.Bucket.log)
    prune_events = _awaits(_tree.Bucket.prune_events)
    sharing = _awaits_long(_tree.Bucket.sharing)
    content_settings = _awaits(_tree.Bucket.content_settings)
    set_content_policy = _awaits(_tree.Bucket.set_content_policy)
    set_content_timeout = _awaits(_tree.Bucket.set_content_timeout)
    pin = _awaits(_tree.Bucket.pin)
    has_match = _awaits(_tree.Bucket.has_match)
    unpin = _awaits(_tree.Bucket.unpin)
    fetch = _awaits_long(_tree.Bucket.fetch, waits=True)
    conflicts = _awaits(_tree.Bucket.conflicts)
    name_conflicts = _awaits(_tree.Bucket.name_conflicts)

    async def branch(self, name: str = "main") -> Branch:
        """Find a branch."""
        return Branch(await _call(self._sync.branch, name))

    async def diff(
        self, old: str | Branch | View, new: str | Branch | View, path: StrPath | None = None
    ) -> list[_native.Difference]:
        """List what changes from one tree to another; see ``alknet_fs.Bucket.diff``."""
        return await _call(self._sync.diff, _sync_tree(old), _sync_tree(new), path)

    async def fork(self, source: str, name: str) -> Branch:
        """Fork a branch off ``"BRANCH"`` or ``"BRANCH@SNAPSHOT"``."""
        return Branch(await _call(self._sync.fork, source, name))

    def view(self, tree: str) -> _Opening[View]:
        """Open a view of ``"BRANCH"`` or ``"BRANCH@SNAPSHOT"``."""
        return _opens(functools.partial(self._sync.view, tree), View, _tree.View.close)

    def watch(
        self,
        glob: str | Iterable[str] | None = None,
        *,
        branch: str | None = None,
        under: StrPath | None = None,
        directly_in: StrPath | None = None,
        ops: Iterable[EventOp] | None = None,
        kinds: Iterable[EntryKind] | None = None,
        after: int | None = None,
        timeout: float | None = None,
    ) -> _Watching:
        """Watch all branches of the bucket, or one, from when the watch is opened."""
        work = functools.partial(
            self._sync.watch,
            glob,
            branch=branch,
            under=under,
            directly_in=directly_in,
            ops=ops,
            kinds=kinds,
            after=after,
        )
        return _watches(work, timeout)


class Node:
    """A running node; see :class:`alknet_fs.Node`."""

    def __init__(self, node: _node.Node) -> None:
        self._sync = node

    @property
    def id(self) -> str:
        """The node's key, by which peers tell it from others."""
        return self._sync.id

    @property
    def running(self) -> bool:
        """Whether it was neither stopped nor its store closed, and did not end by itself."""
        return self._sync.running

    status = _awaits(_node.Node.status)
    stop = _awaits(_node.Node.stop)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await _surely(self._sync.stop)


class Store:
    """An open store; see :class:`alknet_fs.Store`. Make it with ``await aio.open(path)``."""

    def __init__(self, store: _tree.Store) -> None:
        self._sync = store

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Store) and self._sync == other._sync

    def __hash__(self) -> int:
        return hash(self._sync)

    @property
    def path(self) -> os.PathLike[str] | None:
        """The store's directory; ``None`` for a store in memory."""
        return self._sync.path

    @property
    def closed(self) -> bool:
        """Whether the store was closed."""
        return self._sync.closed

    close = _awaits(_tree.Store.close)
    buckets = _awaits(_tree.Store.buckets)
    rename_bucket = _awaits(_tree.Store.rename_bucket)
    delete_bucket = _awaits(_tree.Store.delete_bucket)
    sessions = _awaits(_tree.Store.sessions)
    abort_session = _awaits(_tree.Store.abort_session)
    stats = _awaits(_tree.Store.stats)
    schedule_gc = _awaits(_tree.Store.schedule_gc)
    unschedule_gc = _awaits(_tree.Store.unschedule_gc)
    gc_schedule = _awaits(_tree.Store.gc_schedule)
    compact = _awaits(_tree.Store.compact)
    fsck = _awaits_long(_tree.Store.fsck)
    gc = _awaits_long(_tree.Store.gc)
    gc_if_due = _awaits_long(_tree.Store.gc_if_due)
    share = _awaits(_tree.Store.share)
    unsent = _awaits(_tree.Store.unsent)
    leave = _awaits(_tree.Store.leave)
    grants = _awaits(_tree.Store.grants)
    peers = _awaits(_tree.Store.peers)
    name_peer = _awaits(_tree.Store.name_peer)
    forget_peer = _awaits(_tree.Store.forget_peer)
    revoke_peer = _awaits(_tree.Store.revoke_peer)
    revoke = _awaits(_tree.Store.revoke)
    revoke_grant = _awaits(_tree.Store.revoke_grant)
    sync_status = _awaits(_tree.Store.sync_status)
    cache_limit = _awaits(_tree.Store.cache_limit)
    set_cache_limit = _awaits(_tree.Store.set_cache_limit)
    cached_bytes = _awaits(_tree.Store.cached_bytes)
    evict = _awaits_long(_tree.Store.evict, waits=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the store, and let go of all that was made from it."""
        await _surely(self._sync.close)

    async def bucket(self, name: str = "default") -> Bucket:
        """Find a bucket."""
        return Bucket(await _call(self._sync.bucket, name))

    async def create_bucket(self, name: str) -> Bucket:
        """Make a bucket with the branch ``main``."""
        return Bucket(await _call(self._sync.create_bucket, name))

    async def branch(self, name: str = "main", bucket: str = "default") -> Branch:
        """Find a branch of a bucket."""
        return Branch(await _call(self._sync.branch, name, bucket))

    def node(
        self,
        *,
        loopback: bool = False,
        port: int | None = None,
        relays: Literal["n0"] | Iterable[str] | None = None,
        mdns: bool = False,
        gossip: bool = True,
    ) -> _Opening[Node]:
        """Start the store's node: ``async with store.node()``; see ``alknet_fs.Store.node``."""
        work = functools.partial(
            self._sync.node,
            loopback=loopback,
            port=port,
            relays=relays,
            mdns=mdns,
            gossip=gossip,
        )
        return _opens(work, Node, _node.Node.stop)

    async def join(
        self,
        ticket: str,
        *,
        name: str | None = None,
        merge: bool = False,
        timeout: float = 10.0,
    ) -> Bucket:
        """Make a bucket here that somebody shares; see ``alknet_fs.Store.join``."""
        cancel = _native.Cancel()
        work = functools.partial(
            self._sync.join, ticket, name=name, merge=merge, timeout=timeout, cancel=cancel
        )
        return Bucket(await _run_in(_waiting_executor(), work, cancel.cancel, None))

    async def wait_until_synced(
        self, timeout: float = 60.0, *, bucket: str | None = None
    ) -> _native.SyncStatus:
        """Wait until all is synced; see ``alknet_fs.Store.wait_until_synced``."""
        cancel = _native.Cancel()
        work = functools.partial(
            self._sync.wait_until_synced, timeout, bucket=bucket, cancel=cancel
        )
        return await _run_in(_waiting_executor(), work, cancel.cancel, None)

    def resume_session(self, id: int) -> _Opening[Session]:
        """Take over an open write session that no living process works on, with all it wrote."""
        work = functools.partial(self._sync.resume_session, id)
        return _opens(work, Session, _session.Session.detach)

    def watch(
        self,
        glob: str | Iterable[str] | None = None,
        *,
        bucket: str | None = None,
        branch: str | None = None,
        under: StrPath | None = None,
        directly_in: StrPath | None = None,
        ops: Iterable[EventOp] | None = None,
        kinds: Iterable[EntryKind] | None = None,
        after: int | None = None,
        timeout: float | None = None,
    ) -> _Watching:
        """Watch all buckets, or one, from when the watch is opened."""
        work = functools.partial(
            self._sync.watch,
            glob,
            bucket=bucket,
            branch=branch,
            under=under,
            directly_in=directly_in,
            ops=ops,
            kinds=kinds,
            after=after,
        )
        return _watches(work, timeout)


# Paths.


class Path(_path.TreePath["Branch | View"]):
    """A path of a branch or of a view; see :class:`alknet_fs.Path`."""

    __slots__ = ()

    @property
    def _sync(self) -> _path.Path:
        return _path.Path(self._tree._sync, self)

    @property
    def _branch(self) -> Branch:
        if isinstance(self._tree, Branch):
            return self._tree
        raise make("ReadOnly", "a view can only be read", str(self), None)

    stat = _awaits(_path.Path.stat)
    lstat = _awaits(_path.Path.lstat)
    exists = _awaits(_path.Path.exists)
    is_dir = _awaits(_path.Path.is_dir)
    is_file = _awaits(_path.Path.is_file)
    is_symlink = _awaits(_path.Path.is_symlink)
    samefile = _awaits(_path.Path.samefile)
    read_bytes = _awaits(_path.Path.read_bytes)
    read_text = _awaits(_path.Path.read_text)
    write_bytes = _awaits(_path.Path.write_bytes)
    write_text = _awaits(_path.Path.write_text)
    mkdir = _awaits(_path.Path.mkdir)
    touch = _awaits(_path.Path.touch)
    symlink_to = _awaits(_path.Path.symlink_to)
    hardlink_to = _awaits(_path.Path.hardlink_to)
    unlink = _awaits(_path.Path.unlink)
    rmdir = _awaits(_path.Path.rmdir)
    rmtree = _awaits(_path.Path.rmtree)
    chmod = _awaits(_path.Path.chmod)
    lchmod = _awaits(_path.Path.lchmod)

    async def readlink(self) -> PurePosixPath:
        """Return what a symbolic link points to, as a pure path without a tree."""
        return await _call(self._sync.readlink)

    async def resolve(self, strict: bool = False) -> Path:
        """Return the path without links and ``..``; what is missing stays unless ``strict``."""
        return self._at(str(await _call(self._sync.resolve, strict)))

    async def iterdir(self) -> AsyncIterator[Path]:
        """Iterate over the entries of a directory, sorted by name."""
        for found in await _call(lambda: list(self._sync.iterdir())):
            yield self._at(str(found))

    async def glob(self, pattern: str) -> AsyncIterator[Path]:
        """Iterate over the paths below that match a pattern, ``**`` for any directories."""
        for found in await _call(lambda: list(self._sync.glob(pattern))):
            yield self._at(str(found))

    def rglob(self, pattern: str) -> AsyncIterator[Path]:
        """Iterate over the paths at any depth below that match a pattern."""
        return self.glob(f"**/{pattern}")

    async def walk(
        self,
        top_down: bool = True,
        on_error: Callable[[OSError], object] | None = None,
        follow_symlinks: bool = False,
    ) -> AsyncIterator[tuple[Path, list[str], list[str]]]:
        """Walk through the directories at and below the path, as ``pathlib.Path.walk``."""
        steps = self._tree.walk(self, top_down, on_error, follow_symlinks)
        async for path, dirs, files in steps:
            yield self._at(path), dirs, files

    async def rename(self, target: Part) -> Path:
        """Rename to a path of the same branch, replacing what is there; returns the new path."""
        return self._at(str(await _call(self._sync.rename, target)))

    async def replace(self, target: Part) -> Path:
        """Rename, as :meth:`rename`."""
        return await self.rename(target)

    async def copy(self, target: Part) -> Path:
        """Copy, a directory with all below it, at no cost of space; returns the new path."""
        return self._at(str(await _call(self._sync.copy, target)))

    @overload
    def open(
        self,
        mode: OpenTextMode = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> _Opening[TextFile]: ...

    @overload
    def open(self, mode: OpenBinaryMode, buffering: int = -1) -> _Opening[BinaryFile]: ...

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> _Opening[Any]:
        """Open the file: ``async with path.open() as file``; see ``Branch.open``."""
        work = functools.partial(self._sync.open, mode, *args, **kwargs)
        return _opens(work, _file, _abort_file)


# Stores.


def open(
    path: str | os.PathLike[str],
    *,
    create: bool = True,
    author: str | None = None,
    durability: Literal["full", "relaxed"] = "full",
    busy_timeout: float | None = None,
) -> _Opening[Store]:
    """Open a store, and make it where the directory is missing or empty unless told otherwise.

    ``await`` it, or use it with ``async with``; see :func:`alknet_fs.open`.
    """
    work = functools.partial(
        _tree.open,
        path,
        create=create,
        author=author,
        durability=durability,
        busy_timeout=busy_timeout,
    )
    return _opens(work, Store, _tree.Store.close)


def create(
    path: str | os.PathLike[str],
    *,
    author: str | None = None,
    durability: Literal["full", "relaxed"] = "full",
    busy_timeout: float | None = None,
) -> _Opening[Store]:
    """Make a store in a new or empty directory, and fail where there is one already."""
    work = functools.partial(
        _tree.create, path, author=author, durability=durability, busy_timeout=busy_timeout
    )
    return _opens(work, Store, _tree.Store.close)


def memory(*, author: str | None = None) -> _Opening[Store]:
    """Make a store in memory, which is gone with its last handle."""
    return _opens(functools.partial(_tree.memory, author=author), Store, _tree.Store.close)
