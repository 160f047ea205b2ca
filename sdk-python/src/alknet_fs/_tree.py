"""Stores, buckets, branches and views."""

from __future__ import annotations

import contextlib
import datetime
import io
import operator
import os
import posixpath
import time
import weakref
from typing import TYPE_CHECKING, Any, Protocol, cast, overload

from . import _native
from ._errors import AlkError, BadHandle, NotFound, make
from ._files import (
    DEFAULT_BUFFER_SIZE,
    BufferedRandom,
    BufferedReader,
    BufferedWriter,
    File,
    TextFile,
)
from ._node import Node
from ._path import Path, text_of
from ._session import Session
from ._watch import Watch, patterns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Literal

    from typing_extensions import Buffer, Self

    from ._modes import (
        EntryKind,
        EventOp,
        InTree,
        Keep,
        OpenBinaryMode,
        OpenBinaryModeReading,
        OpenBinaryModeUpdating,
        OpenBinaryModeWriting,
        OpenTextMode,
        OpenTextModeReading,
    )
    from ._path import Part

    StrPath = str | bytes | os.PathLike[str] | os.PathLike[bytes] | InTree

_FLAGS: dict[str, dict[str, bool]] = {
    "r": {"read": True},
    "w": {"write": True, "create": True, "truncate": True},
    "a": {"append": True, "create": True},
    "x": {"write": True, "create_new": True},
}


class ScandirIterator:
    """What ``scandir`` returns: an iterator over the entries of a directory."""

    def __init__(self, entries: list[_native.DirEntry]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _native.DirEntry:
        return next(self._entries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget the rest."""
        self._entries = iter(())


def _parse_mode(mode: str) -> tuple[str, bool, bool]:
    """Take a mode of ``open`` apart: the letter, whether ``+``, whether binary."""
    letters = [letter for letter in mode if letter in _FLAGS]
    rest = sorted(letter for letter in mode if letter not in _FLAGS)
    if len(letters) != 1 or rest not in ([], ["+"], ["b"], ["t"], ["+", "b"], ["+", "t"]):
        raise ValueError(f"invalid mode: {mode!r}")
    return letters[0], "+" in rest, "b" in rest


def _check_text(binary: bool, *settings: str | None) -> None:
    """Refuse what only text has: encoding, errors and newline."""
    if binary and any(setting is not None for setting in settings):
        raise ValueError("binary mode takes no encoding, errors or newline argument")


def _wrap(
    raw: File,
    *,
    binary: bool,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
) -> Any:
    """Put the buffer and the text layer of :func:`open` on a raw file."""
    try:
        if buffering == 0:
            if not binary:
                raise ValueError("can't have unbuffered text I/O")
            return raw
        if binary and buffering == 1:
            buffering = -1
        size = DEFAULT_BUFFER_SIZE if buffering in (-1, 1) else buffering
        buffer: BufferedReader | BufferedWriter | BufferedRandom
        if raw.readable() and raw.writable():
            buffer = BufferedRandom(raw, size)
        elif raw.writable():
            buffer = BufferedWriter(raw, size)
        else:
            buffer = BufferedReader(raw, size)
        if binary:
            return buffer
        return TextFile(buffer, encoding or "utf-8", errors, newline, line_buffering=buffering == 1)
    except BaseException:
        raw.abort()
        raise


def _represent(what: str, handle: _native.Branch | _native.Bucket) -> str:
    try:
        return f"<alknet_fs.{what} {handle.name!r}>"
    except AlkError as error:
        return f"<alknet_fs.{what}: {error.strerror}>"


def _leads_to_dir(entry: _native.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


class _Reading(_native.Tree if TYPE_CHECKING else object):  # type: ignore[misc]
    """What branches and views have in common beyond the native module."""

    def read_text(
        self, path: StrPath, encoding: str | None = None, errors: str | None = None
    ) -> str:
        """Read a whole file as text, UTF-8 unless told otherwise; all line ends become one."""
        data = self.read_bytes(path)
        return io.TextIOWrapper(io.BytesIO(data), encoding or "utf-8", errors or "strict").read()

    def scandir(self, path: StrPath = "/") -> ScandirIterator:
        """Return an iterator over the entries of a directory, sorted by name.

        >>> import alknet_fs
        >>> branch = alknet_fs.memory().branch()
        >>> branch.makedirs("/src/lib")
        >>> with branch.scandir("/src") as entries:
        ...     print([(entry.name, entry.path, entry.is_dir()) for entry in entries])
        [('lib', '/src/lib', True)]
        """
        return ScandirIterator(self._scandir(path))

    def find(self, path: StrPath = "/") -> ScandirIterator:
        """Return an iterator over all below a directory, each directory before its entries.

        It sees the tree at one point in time, and takes one call instead of one for each directory.
        Of a file, it gives the file itself.

        >>> import alknet_fs
        >>> branch = alknet_fs.memory().branch()
        >>> branch.makedirs("/src/lib")
        >>> _ = branch.write_bytes("/src/lib/a.py", b"")
        >>> [entry.path for entry in branch.find("/src")]
        ['/src/lib', '/src/lib/a.py']
        """
        return ScandirIterator(self._find(path))

    def walk(
        self,
        top: StrPath = "/",
        topdown: bool = True,
        onerror: Callable[[OSError], object] | None = None,
        followlinks: bool = False,
    ) -> Iterator[tuple[str, list[str], list[str]]]:
        """Walk through the directories at and below a path, as ``os.walk``.

        Yields the path of each, the names of the directories in it, and those of all else. With
        ``topdown``, changing the list of directories in place chooses where the walk goes on.

        >>> import alknet_fs
        >>> branch = alknet_fs.memory().branch()
        >>> branch.makedirs("/src/lib")
        >>> _ = branch.write_bytes("/src/a.py", b"")
        >>> list(branch.walk("/src"))
        [('/src', ['lib'], ['a.py']), ('/src/lib', [], [])]
        """
        stack: list[str | tuple[str, list[str], list[str]]] = [os.fsdecode(text_of(top))]
        while stack:
            here = stack.pop()
            if isinstance(here, tuple):
                yield here
                continue
            try:
                entries = self._scandir(here)
            except OSError as error:
                if onerror is not None:
                    onerror(error)
                continue
            dirs: list[str] = []
            files: list[str] = []
            for entry in entries:
                (dirs if _leads_to_dir(entry) else files).append(entry.name)
            links = {entry.name for entry in entries if entry.is_symlink()}
            if topdown:
                yield here, dirs, files
            else:
                stack.append((here, dirs, files))
            for name in reversed(dirs):
                if followlinks or name not in links:
                    stack.append(posixpath.join(here, name))

    def path(self, *parts: Part) -> Path:
        """Return a path of this tree with the feel of ``pathlib``.

        >>> import alknet_fs
        >>> branch = alknet_fs.memory().branch()
        >>> notes = branch.path("notes")
        >>> notes.mkdir()
        >>> (notes / "todo.txt").write_text("test")
        4
        >>> [path.name for path in notes.iterdir()]
        ['todo.txt']
        """
        assert isinstance(self, (Branch, View))
        return Path(self, *parts)

    def __truediv__(self, part: Part) -> Path:
        """Return a path of this tree: ``branch / "notes" / "todo.txt"``."""
        return self.path(part)


class View(_Reading, _native.View):
    """A branch or a snapshot at one point in time: whatever is committed later, it stays the same.

    Reading many things through one view is consistent, and faster than one call each. A view that
    is held for long keeps the store's log from shrinking, so close it, or use ``with``.

    >>> import alknet_fs
    >>> branch = alknet_fs.memory().branch()
    >>> _ = branch.write_bytes("/a", b"old")
    >>> with branch.view() as view:
    ...     _ = branch.write_bytes("/a", b"new")
    ...     view.read_bytes("/a")
    b'old'
    """

    _snapshot: tuple[Branch, str] | None = None

    def _named(self, branch: Branch, snapshot: str | None) -> Self:
        """Remember what the view is of."""
        self._snapshot = None if snapshot is None else (branch, snapshot)
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open_file(self, path: StrPath) -> File:
        """Open a file for reading, unbuffered."""
        native = self._open_file(path)
        return File(native, native.path, readable=True, writable=False)

    @overload
    def open(
        self,
        path: StrPath,
        mode: OpenTextModeReading = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> TextFile: ...

    @overload
    def open(self, path: StrPath, mode: OpenBinaryModeReading, buffering: Literal[0]) -> File: ...

    @overload
    def open(
        self, path: StrPath, mode: OpenBinaryModeReading, buffering: Literal[-1, 1] = -1
    ) -> BufferedReader: ...

    @overload
    def open(
        self,
        path: StrPath,
        mode: str,
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any: ...

    def open(
        self,
        path: StrPath,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """Open a file for reading, as the builtin ``open``; text is UTF-8 unless told otherwise."""
        letter, plus, binary = _parse_mode(mode)
        if letter != "r" or plus:
            raise io.UnsupportedOperation("a view can only be read")
        _check_text(binary, encoding, errors, newline)
        return _wrap(
            self.open_file(path),
            binary=binary,
            buffering=buffering,
            encoding=encoding,
            errors=errors,
            newline=newline,
        )


class _Writable(Protocol):
    def write_bytes(self, path: StrPath, data: Buffer) -> int: ...

    def set_attrs(
        self,
        path: StrPath,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        mtime_ns: int | None = None,
        follow_symlinks: bool = True,
    ) -> None: ...


class _Writing:
    """What branches and batches have in common beyond the native module."""

    def write_text(
        self: _Writable,
        path: StrPath,
        data: str,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> int:
        """Write a whole file as text, UTF-8 unless told otherwise; returns its characters."""
        if newline not in (None, "", "\n", "\r", "\r\n"):
            raise ValueError(f"illegal newline value: {newline!r}")
        if not isinstance(data, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"data is str, not {type(data).__name__}")
        text = data.replace("\n", newline or "\n")
        self.write_bytes(path, text.encode(encoding or "utf-8", errors or "strict"))
        return len(data)

    def chmod(self: _Writable, path: StrPath, mode: int, *, follow_symlinks: bool = True) -> None:
        """Change the permission bits."""
        self.set_attrs(path, mode=mode, follow_symlinks=follow_symlinks)

    def chown(
        self: _Writable, path: StrPath, uid: int, gid: int, *, follow_symlinks: bool = True
    ) -> None:
        """Change the owner; -1 leaves one as it is."""
        self.set_attrs(
            path,
            uid=None if uid == -1 else uid,
            gid=None if gid == -1 else gid,
            follow_symlinks=follow_symlinks,
        )

    def utime(
        self: _Writable,
        path: StrPath,
        times: tuple[float, float] | None = None,
        *,
        ns: tuple[int, int] | None = None,
        follow_symlinks: bool = True,
    ) -> None:
        """Set the time of modification, to now unless given; as ``os.utime``.

        The time of access, the first of the two, is not kept.
        """
        if times is not None and ns is not None:
            raise ValueError("utime: you may specify either 'times' or 'ns' but not both")
        both: Any = times if ns is None else ns
        if both is not None and not (isinstance(both, tuple) and len(cast("Any", both)) == 2):
            raise TypeError("utime: 'times' and 'ns' are tuples of two numbers")
        if ns is not None:
            mtime = ns[1]
        elif times is not None:
            mtime = round(times[1] * 1e9)
        else:
            mtime = time.time_ns()
        self.set_attrs(path, mtime_ns=mtime, follow_symlinks=follow_symlinks)


class Batch(_Writing, _native.Batch):
    """Changes of one branch that are committed together: all of them show at once, or none does.

    A ``with`` block commits them at its end, and throws them away if an exception leaves it. Until
    then the branch shows nothing of them; what is wrong with one of them, the commit tells.

    >>> import alknet_fs
    >>> branch = alknet_fs.memory().branch()
    >>> with branch.batch() as batch:
    ...     batch.makedirs("/src")
    ...     _ = batch.write_text("/src/a.py", "a = 1")
    ...     _ = batch.write_text("/src/b.py", "b = 2")
    ...     print(branch.exists("/src"), len(batch))
    False 4
    >>> branch.listdir("/src")
    ['a.py', 'b.py']
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Commit, unless that was done, or abort if the block was left by an exception."""
        if kind is not None:
            # A store that is closed has thrown the changes away.
            with contextlib.suppress(BadHandle):
                self.abort()
        elif not self.closed:
            self.commit()


class Branch(_Reading, _Writing, _native.Branch):
    """A tree of files that can be forked, read and changed.

    Every call sees the branch as it is at that moment, and every call that changes something is
    one atomic, durable commit. Paths are absolute, with ``/`` between names.

    >>> import alknet_fs
    >>> main = alknet_fs.memory().branch()
    >>> _ = main.write_bytes("/hello.txt", b"hello")
    >>> agent = main.fork("agent")
    >>> _ = agent.write_bytes("/hello.txt", b"hello from the agent")
    >>> main.read_bytes("/hello.txt"), agent.read_bytes("/hello.txt")
    (b'hello', b'hello from the agent')
    """

    _unpickled: Bucket | None = None

    def __repr__(self) -> str:
        return _represent("Branch", self)

    def view(self, snapshot: str | None = None) -> View:
        """Open a view of the branch as it is now, or of one of its snapshots."""
        return View(self._view(snapshot))._named(self, snapshot)

    def fork(self, name: str, snapshot: str | None = None) -> Branch:
        """Fork a branch off this one, or off one of its snapshots; costs the same for any size.

        Later writes to this branch show through in a fork of the branch where the fork has not
        overridden or removed them. A fork of a snapshot never changes by itself.
        """
        return Branch(self._fork(name, snapshot))

    @property
    def bucket(self) -> Bucket:
        """The bucket that the branch is in."""
        return Bucket(self._bucket())

    def __reduce__(self) -> tuple[Callable[..., Branch], tuple[Bucket, str]]:
        return _branch_named, (self.bucket, self.name)

    def diff(self, other: str | Branch | View, path: StrPath = "/") -> list[_native.Difference]:
        """List what changes from this branch to another tree of its bucket, sorted by path.

        The other is a branch, ``"BRANCH"``, ``"BRANCH@SNAPSHOT"`` or a view of a snapshot. What
        only it has was ``"added"``, what only this branch has ``"deleted"``.

        >>> import alknet_fs
        >>> main = alknet_fs.memory().branch()
        >>> agent = main.fork("agent")
        >>> _ = agent.write_bytes("/new.txt", b"new")
        >>> main.diff(agent)
        [<Difference added /new.txt>]
        """
        return self.bucket.diff(self, other, path)

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
    ) -> Session:
        """Open a file for writing at any offset; it can be detached, and resumed after a crash.

        A missing file is created unless ``create`` is false; with ``create_new`` there must be
        none, neither now nor when the session closes. With ``exclusive``, a second exclusive opener
        of the path fails with ``Locked``, which names the ``owner``.
        """
        native = self._open_session(
            path,
            create=create,
            create_new=create_new,
            truncate=truncate,
            exclusive=exclusive,
            owner=owner,
            mode=mode,
        )
        return Session(native)

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
    ) -> Watch:
        """Watch the branch for events from now on, or from after a cursor; 0 is the first.

        The patterns ``glob`` are those of ``.gitignore``: ``*`` and ``?`` stop at ``/``, ``**``
        does not, and a pattern without ``/`` matches names in any directory. ``under`` takes a
        directory with all below it, ``directly_in`` one without. ``ops`` is what happened,
        ``kinds`` to what.

        Iterating waits for ever, or ends when nothing happened for ``timeout`` seconds. A cursor of
        which later events were pruned fails with ``Lagged``.
        """
        bucket = self.bucket
        return bucket.store.watch(
            glob,
            bucket=bucket.name,
            branch=self.name,
            under=under,
            directly_in=directly_in,
            ops=ops,
            kinds=kinds,
            after=after,
            timeout=timeout,
        )

    def events(
        self,
        glob: str | Iterable[str] | None = None,
        *,
        under: StrPath | None = None,
        directly_in: StrPath | None = None,
        ops: Iterable[EventOp] | None = None,
        kinds: Iterable[EntryKind] | None = None,
        after: int = 0,
    ) -> Watch:
        """Iterate over the events that are there after a cursor, oldest first, read as needed.

        The filters are those of :meth:`watch`.

        >>> import alknet_fs
        >>> branch = alknet_fs.memory().branch()
        >>> branch.mkdir("/a")
        >>> cursor = branch.log(1)[0].cursor
        >>> branch.mkdir("/b")
        >>> [event.path for event in branch.events()]
        ['/a', '/b']
        >>> [event.path for event in branch.events(after=cursor)]
        ['/b']
        """
        return self.watch(
            glob,
            under=under,
            directly_in=directly_in,
            ops=ops,
            kinds=kinds,
            after=after,
            timeout=0,
        )

    def log(
        self,
        limit: int = 100,
        glob: str | Iterable[str] | None = None,
        *,
        under: StrPath | None = None,
        directly_in: StrPath | None = None,
        ops: Iterable[EventOp] | None = None,
        kinds: Iterable[EntryKind] | None = None,
    ) -> list[_native.Event]:
        """Return the newest events, newest first. The filters are those of :meth:`watch`."""
        return self.bucket.log(
            limit,
            glob,
            branch=self.name,
            under=under,
            directly_in=directly_in,
            ops=ops,
            kinds=kinds,
        )

    def fetching(self, timeout: float | None = None) -> Branch:
        """Return the branch with another time that its reads wait for contents that are elsewhere.

        ``timeout`` is in seconds; with 0, only what is here can be read. Otherwise it is that of
        the bucket, 30 seconds unless :meth:`Bucket.set_content_timeout` said otherwise.

        >>> import alknet_fs
        >>> branch = alknet_fs.memory().branch()
        >>> _ = branch.write_bytes("/a", b"data")
        >>> branch.fetching(timeout=0).read_bytes("/a")
        b'data'
        """
        return Branch(self._fetching(timeout))

    def resolve(self, path: StrPath, keep: Keep | int = "shown") -> list[str]:
        """Decide a conflict on all nodes: keep what is shown, one of the others, or both.

        One of the others is given by its place in ``conflict.others``. With ``"both"``, they are
        kept beside what is shown under other names, which are returned. An other that is a removal
        removes what is shown, and one that is a file takes the place of a directory with all in it;
        its content is waited for first where it is not here, as a read waits.
        """
        return self._resolve(path, keep if isinstance(keep, str) else str(operator.index(keep)))

    def batch(self) -> Batch:
        """Begin a batch of changes that are committed together."""
        return Batch(self)

    def open_file(
        self,
        path: StrPath,
        *,
        read: bool = False,
        write: bool = False,
        append: bool = False,
        create: bool = False,
        create_new: bool = False,
        truncate: bool = False,
        exclusive: bool = False,
        owner: str | None = None,
        mode: int | None = None,
    ) -> File:
        """Open a file with the flags of ``os.open``, unbuffered.

        With ``exclusive``, a second exclusive opener of the path fails with ``Locked``, which names
        the ``owner``; without it, the last close wins. ``mode`` is that of a file that is created.
        """
        native = self._open_file(
            path,
            read=read,
            write=write,
            append=append,
            create=create,
            create_new=create_new,
            truncate=truncate,
            exclusive=exclusive,
            owner=owner,
            mode=mode,
        )
        return File(native, native.path, readable=read, writable=write or append)

    @overload
    def open(
        self,
        path: StrPath,
        mode: OpenTextMode = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> TextFile: ...

    @overload
    def open(self, path: StrPath, mode: OpenBinaryMode, buffering: Literal[0]) -> File: ...

    @overload
    def open(
        self, path: StrPath, mode: OpenBinaryModeReading, buffering: Literal[-1, 1] = -1
    ) -> BufferedReader: ...

    @overload
    def open(
        self, path: StrPath, mode: OpenBinaryModeWriting, buffering: Literal[-1, 1] = -1
    ) -> BufferedWriter: ...

    @overload
    def open(
        self, path: StrPath, mode: OpenBinaryModeUpdating, buffering: Literal[-1, 1] = -1
    ) -> BufferedRandom: ...

    @overload
    def open(
        self,
        path: StrPath,
        mode: str,
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any: ...

    def open(
        self,
        path: StrPath,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """Open a file as the builtin ``open``; text is UTF-8 unless told otherwise.

        What is written shows in the branch when the file is closed, in one durable commit. If an
        exception leaves the ``with`` block, or nobody closes the file, nothing changes.

        >>> import alknet_fs
        >>> branch = alknet_fs.memory().branch()
        >>> with branch.open("/a.txt", "w") as file:
        ...     print("one", "two", file=file)
        >>> branch.open("/a.txt").read().split()
        ['one', 'two']
        """
        letter, plus, binary = _parse_mode(mode)
        _check_text(binary, encoding, errors, newline)
        flags = dict(_FLAGS[letter])
        if plus:
            flags |= {"read": True, "write": True}
        raw = self.open_file(path, **flags)  # type: ignore[arg-type]
        raw.mode = f"{letter}b+" if plus else f"{letter}b"
        if letter == "a":
            raw.seek(0, 2)
        return _wrap(
            raw,
            binary=binary,
            buffering=buffering,
            encoding=encoding,
            errors=errors,
            newline=newline,
        )


class Bucket(_native.Bucket):
    """The unit of isolation: branches share content and history inside a bucket, never across."""

    _unpickled: Store | None = None

    def __repr__(self) -> str:
        return _represent("Bucket", self)

    @property
    def store(self) -> Store:
        """The store that the bucket is in."""
        return Store(self._store())

    def __reduce__(self) -> tuple[Callable[..., Bucket], tuple[Store, str]]:
        return _bucket_named, (self.store, self.name)

    def log(
        self,
        limit: int = 100,
        glob: str | Iterable[str] | None = None,
        *,
        branch: str | None = None,
        under: StrPath | None = None,
        directly_in: StrPath | None = None,
        ops: Iterable[EventOp] | None = None,
        kinds: Iterable[EntryKind] | None = None,
    ) -> list[_native.Event]:
        """Return the newest events, newest first. The filters are those of ``branch.watch``."""
        return self._log(
            limit,
            branch,
            patterns(glob),
            under,
            directly_in,
            None if ops is None else list(ops),
            None if kinds is None else list(kinds),
        )

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
    ) -> Watch:
        """Watch all branches of the bucket, or one; the rest is as of ``branch.watch``."""
        return self.store.watch(
            glob,
            bucket=self.name,
            branch=branch,
            under=under,
            directly_in=directly_in,
            ops=ops,
            kinds=kinds,
            after=after,
            timeout=timeout,
        )

    def diff(
        self, old: str | Branch | View, new: str | Branch | View, path: StrPath | None = None
    ) -> list[_native.Difference]:
        """List what changes from one tree of the bucket to another, sorted by path.

        Each is a branch, ``"BRANCH"``, ``"BRANCH@SNAPSHOT"`` or a view of a snapshot.
        """
        return super().diff(self._tree_name(old), self._tree_name(new), path)

    def _tree_name(self, tree: str | Branch | View) -> str:
        if isinstance(tree, str):
            return tree
        if isinstance(tree, View):
            if tree._snapshot is None:
                message = "a view of a branch as it was cannot be compared; take a snapshot for it"
                raise make("Unsupported", message, None, "diff")
            branch, snapshot = tree._snapshot
            name = f"{branch.name}@{snapshot}"
        else:
            branch, name = tree, tree.name
        if branch.bucket != self:
            raise make("InvalidInput", "the branch is of another bucket", name, "diff")
        return name

    def branch(self, name: str = "main") -> Branch:
        """Find a branch. The handle stays with the branch when it is renamed."""
        try:
            return Branch(self._branch(name))
        except NotFound as error:
            if "@" not in name:
                raise
            message = f"{error.strerror}; bucket.view({name!r}) reads a snapshot"
            raise make("NotFound", message, error.path, error.op) from None

    def fork(self, source: str, name: str) -> Branch:
        """Fork a branch off ``"BRANCH"`` or ``"BRANCH@SNAPSHOT"``."""
        return Branch(self._fork(source, name))

    def view(self, tree: str) -> View:
        """Open a view of ``"BRANCH"`` or ``"BRANCH@SNAPSHOT"``."""
        view = View(self._view(tree))
        name, at, snapshot = tree.partition("@")
        return view._named(self.branch(name), snapshot) if at else view


class Store(_native.Store):
    """An open store: a directory on disk, or memory. Any number of processes can share one.

    Make it with :func:`alknet_fs.open`, :func:`alknet_fs.create` or :func:`alknet_fs.memory`.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the store, and let go of all that was made from it; see :meth:`close`."""
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return "<alknet_fs.Store closed>"
        where = "in memory" if self.path is None else repr(str(self.path))
        return f"<alknet_fs.Store {where}>"

    def __reduce__(self) -> tuple[Callable[..., Store], tuple[Any, ...]]:
        if self.path is None:
            raise TypeError("a store in memory cannot be pickled: nobody else can open it")
        return _store_at, (os.path.abspath(self.path), *self._opened_with())

    def resume_session(self, id: int) -> Session:
        """Take over an open write session that no living process works on, with all it wrote."""
        return Session(self._resume_session(id))

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
    ) -> Watch:
        """Watch all buckets, or one; the rest is as of ``branch.watch``."""
        native = self._watch(
            bucket,
            after,
            branch,
            patterns(glob),
            under,
            directly_in,
            None if ops is None else list(ops),
            None if kinds is None else list(kinds),
        )
        return Watch(native, timeout)

    def bucket(self, name: str = "default") -> Bucket:
        """Find a bucket. The handle stays with the bucket when it is renamed."""
        return Bucket(self._bucket(name))

    def create_bucket(self, name: str) -> Bucket:
        """Make a bucket with the branch ``main``."""
        return Bucket(self._create_bucket(name))

    def node(
        self,
        *,
        loopback: bool = False,
        port: int | None = None,
        relays: Literal["n0"] | Iterable[str] | None = None,
        mdns: bool = False,
        gossip: bool = True,
    ) -> Node:
        """Start the store's node, for as long as a ``with`` block or until it is stopped.

        It listens on all addresses of the machine, or on this machine only with ``loopback``, on a
        free port and from then on on the same again, unless ``port`` names one. Nothing leaves the
        machine but to nodes that were let in; ``relays`` names some by whose help nodes are reached
        that cannot be reached directly, or is ``"n0"`` for those that n0 runs for everybody. With
        ``mdns`` it says on the local network where it is, and looks there for its peers. It
        converses with nodes that others let into the same buckets, too, and finds out by gossip who
        of them has news, unless ``gossip`` is false.

        Fails with ``Locked`` where a process runs the node of this store already.
        """
        if relays is None:
            urls: list[str] | None = []
        elif isinstance(relays, str):
            urls = None if relays == "n0" else [relays]
        else:
            urls = list(relays)
        return Node(self._start_node(loopback, port, urls, mdns, gossip))

    def share(
        self,
        bucket: str = "default",
        *,
        read_only: bool = False,
        branches: str | Iterable[str] = (),
        expires: float | datetime.timedelta | None = None,
        name: str | None = None,
    ) -> str:
        """Share a bucket, or some branches of it: return a ticket that lets in whoever has it.

        Hand it over in private. ``expires`` is a time in seconds after which nobody is let in by
        it; ``name`` is what ``grants()`` calls what was given. A ticket for a branch lets its
        holder read what the branch inherits, too. Who joins waits until the node runs.
        """
        if isinstance(expires, datetime.timedelta):
            expires = expires.total_seconds()
        names = [branches] if isinstance(branches, str) else list(branches)
        return self._share(bucket, read_only, names, expires, name)

    def join(
        self,
        ticket: str,
        *,
        name: str | None = None,
        merge: bool = False,
        timeout: float = 10.0,
        cancel: _native.Cancel | None = None,
    ) -> Bucket:
        """Make a bucket here that somebody shares, and keep the two the same while a node runs.

        ``name`` is what to call it here. With ``merge``, a bucket of that name that was never
        shared becomes the joined one, with all that both hold. Joining again is harmless, and how
        a newer ticket for the same bucket is used.

        Where a process runs the node of this store, it waits up to ``timeout`` seconds for the
        answer of the node that gave the ticket. If that does not let this one in, because the
        grant was revoked, it fails with ``PermissionDenied``, and all is as it was before. When the
        time is over, when the wait is cancelled, and at once where no node runs here, the bucket
        stays joined: a node that runs goes on trying, and ``sync_status()`` says how that went.
        """
        return Bucket(self._join(ticket, name, merge, timeout, cancel))

    def wait_until_synced(
        self,
        timeout: float = 60.0,
        *,
        bucket: str | None = None,
        cancel: _native.Cancel | None = None,
    ) -> _native.SyncStatus:
        """Wait until each bucket that is shared or joined, or one, is synced with all peers.

        Returns how it stands then, or when the time is over: ``synced`` says which.
        """
        return self._wait_until_synced(bucket, timeout, cancel)

    def branch(self, name: str = "main", bucket: str = "default") -> Branch:
        """Find a branch of a bucket: short for ``store.bucket(bucket).branch(name)``."""
        return self.bucket(bucket).branch(name)


_reopened: weakref.WeakValueDictionary[tuple[Any, ...], Store] = weakref.WeakValueDictionary()


def _store_at(
    path: str,
    author: str | None,
    durability: Literal["full", "relaxed"],
    busy_timeout: float | None,
) -> Store:
    """Open a pickled store; all handles that a process unpickles share one."""
    key = (path, author, durability, busy_timeout)
    store = _reopened.get(key)
    if store is None or store.closed:
        store = open(
            path, create=False, author=author, durability=durability, busy_timeout=busy_timeout
        )
        _reopened[key] = store
    return store


def _bucket_named(store: Store, name: str) -> Bucket:
    bucket = store.bucket(name)
    bucket._unpickled = store
    return bucket


def _branch_named(bucket: Bucket, name: str) -> Branch:
    branch = bucket.branch(name)
    branch._unpickled = bucket
    return branch


def open(
    path: str | os.PathLike[str],
    *,
    create: bool = True,
    author: str | None = None,
    durability: Literal["full", "relaxed"] = "full",
    busy_timeout: float | None = None,
) -> Store:
    """Open a store, and make it where the directory is missing or empty unless told otherwise.

    ``author`` is named in events and as the owner of sessions; the user's name otherwise. With
    ``durability="relaxed"`` a power cut may undo the latest commits. A write waits for writers of
    other processes for up to ``busy_timeout`` seconds, 30 unless given.
    """
    how = "open_or_create" if create else "open"
    return Store(how, path, author=author, durability=durability, busy_timeout=busy_timeout)


def create(
    path: str | os.PathLike[str],
    *,
    author: str | None = None,
    durability: Literal["full", "relaxed"] = "full",
    busy_timeout: float | None = None,
) -> Store:
    """Make a store in a new or empty directory, and fail where there is one already."""
    return Store("create", path, author=author, durability=durability, busy_timeout=busy_timeout)


def memory(*, author: str | None = None) -> Store:
    """Make a store in memory, which is gone with its last handle."""
    return Store("memory", author=author)
