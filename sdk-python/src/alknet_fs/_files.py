"""File objects: the classes of :mod:`io` on top of the engine's open files."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

from ._errors import AlkError, BadHandle

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Buffer

    from . import _native

DEFAULT_BUFFER_SIZE = 64 * 1024


class File(io.RawIOBase):
    """An unbuffered open file: what ``branch.open(path, "rb", buffering=0)`` returns.

    What is written shows in the branch when the file is closed, in one durable commit. A ``with``
    block that an exception leaves, :meth:`abort` and the garbage collector throw it away instead.

    >>> import alknet_fs
    >>> branch = alknet_fs.memory().branch()
    >>> with branch.open_file("/a", write=True, create=True) as file:
    ...     _ = file.write(b"0123456789")
    ...     _ = file.pwrite(b"xx", 4)
    ...     assert not branch.exists("/a")
    >>> branch.read_bytes("/a")
    b'0123xx6789'
    """

    def __init__(self, native: _native.File, path: str, *, readable: bool, writable: bool) -> None:
        self._native = native
        self._readable = readable
        self._writable = writable
        self.name: str = path
        self.mode: str = {(True, False): "rb", (False, True): "wb"}.get((readable, writable), "rb+")

    def readable(self) -> bool:
        """Tell whether the file can be read."""
        self._checkClosed()
        return self._readable

    def writable(self) -> bool:
        """Tell whether the file can be written."""
        self._checkClosed()
        return self._writable

    def seekable(self) -> bool:
        """Tell that the position can be moved."""
        self._checkClosed()
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        """Read into a buffer; returns how many bytes, 0 at the end of the file."""
        with memoryview(buffer) as view:
            return self._native.readinto(view)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to ``size`` bytes, or all that is left."""
        if size is None or size < 0:
            return self.readall()
        return self._native.read(size)

    def readall(self) -> bytes:
        """Read all that is left."""
        return self._native.read(self._native.size())

    def write(self, data: Buffer, /) -> int:
        """Write all bytes at the position, or at the end of a file opened for appending."""
        # What is bytes is not copied again.
        return self._native.write(data.tobytes() if isinstance(data, memoryview) else data)

    def pread(self, size: int, offset: int) -> bytes:
        """Read up to ``size`` bytes at an offset; the position stays."""
        return self._native.read(size, offset)

    def pwrite(self, data: Buffer, offset: int) -> int:
        """Write all bytes at an offset; the position stays."""
        return self._native.write(data, offset)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move the position, relative to the start, the position or the end of the file."""
        self._checkClosed()
        if whence == 0:
            target = offset
        elif whence == 1:
            target = self._native.tell() + offset
        elif whence == 2:
            target = self._native.size() + offset
        else:
            raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
        self._native.seek(target)
        return target

    def tell(self) -> int:
        """Return the position."""
        self._checkClosed()
        return self._native.tell()

    def truncate(self, size: int | None = None, /) -> int:
        """Cut the file, or extend it with zeros, to ``size`` or to the position."""
        target = self._native.tell() if size is None else size
        self._native.truncate(target)
        return target

    def stat(self) -> _native.Entry:
        """Return what is known of the file, with the size it has now."""
        return self._native.stat()

    def set_attrs(
        self,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        mtime_ns: int | None = None,
    ) -> None:
        """Change attributes: at once, or with the close of a file that is being written."""
        self._native.set_attrs(mode=mode, uid=uid, gid=gid, mtime_ns=mtime_ns)

    def sync(self) -> None:
        """Make what was written so far survive a power cut, without committing it."""
        self._native.sync()

    def close(self) -> None:
        """Commit what was written. Where that fails, the file stays open with all of it."""
        self.commit()

    def commit(self) -> _native.Closed | None:
        """Close the file and return what was committed; ``None`` for a file only read."""
        if self.closed:
            return None
        closed = self._native.close()
        super().close()
        return closed

    def abort(self) -> None:
        """Close the file and throw away what was written."""
        if not self.closed:
            self._native.abort()
            super().close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Commit, or abort if the block was left by an exception."""
        _leave(self, self, kind)

    def __del__(self) -> None:
        _collect(self, self)

    def __repr__(self) -> str:
        state = "closed " if self.closed else ""
        return f"<{state}alknet_fs.File {self.name!r} mode={self.mode!r}>"

    def _checkClosed(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")


def _leave(file: io.IOBase, raw: File, kind: type[BaseException] | None) -> None:
    try:
        if kind is None:
            file.close()
            return
    except BaseException:
        abort(raw)
        raise
    abort(raw)


def abort(raw: File) -> None:
    """Throw away what was written, unless the store did so when it was closed."""
    try:
        raw.abort()
    except BadHandle:
        io.RawIOBase.close(raw)


def _collect(file: io.IOBase, raw: File) -> None:
    """Abort a file that nobody closed; closing it would commit half of it."""
    if raw.closed:
        return
    try:
        if raw._writable:
            detail = f"{raw!r} was never closed: what was written to it is lost"
            warnings.warn(detail, ResourceWarning, stacklevel=3, source=file)
    finally:
        abort(raw)


class _Buffered:
    """What the buffered files have in common: only closing them commits."""

    raw: File

    def close(self) -> None:
        """Commit what was written. Where the store refuses, the file stays open with all of it."""
        assert isinstance(self, io.IOBase)
        # What close does by itself would, after a flush that failed, commit half of the file.
        if not self.raw.closed:
            try:
                self.flush()
            except AlkError:
                raise
            except BaseException:
                # Nobody knows how much arrived.
                self.raw.abort()
                raise
            self.raw.close()
        super().close()  # type: ignore[misc]

    def abort(self) -> None:
        """Close the file and throw away what was written."""
        self.raw.abort()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Commit, or abort if the block was left by an exception."""
        assert isinstance(self, io.IOBase)
        _leave(self, self.raw, kind)

    def __del__(self) -> None:
        assert isinstance(self, io.IOBase)
        _collect(self, self.raw)


class BufferedReader(_Buffered, io.BufferedReader):  # type: ignore[misc]
    """A file opened for reading with a buffer."""


class BufferedWriter(_Buffered, io.BufferedWriter):  # type: ignore[misc]
    """A file opened for writing with a buffer."""


class BufferedRandom(_Buffered, io.BufferedRandom):  # type: ignore[misc]
    """A file opened for reading and writing with a buffer."""


class TextFile(io.TextIOWrapper):
    """A file opened as text."""

    @property
    def mode(self) -> str:
        """The mode it was opened with."""
        return raw_of(self).mode.replace("b", "")

    def close(self) -> None:
        """Commit what was written. Where the store refuses the commit, the file stays open.

        Where it refuses the last of the text before that, the file is aborted.
        """
        if not self.buffer.closed:
            try:
                self.flush()
            except BaseException:
                # The text that it was to hand over is gone.
                self.abort()
                raise
            self.buffer.close()
        super().close()

    def abort(self) -> None:
        """Close the file and throw away what was written."""
        raw_of(self).abort()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Commit, or abort if the block was left by an exception."""
        _leave(self, raw_of(self), kind)

    def __del__(self) -> None:
        # It has none where it could not be made.
        if getattr(self, "buffer", None) is not None:
            _collect(self, raw_of(self))


def raw_of(file: TextFile) -> File:
    """Return the unbuffered file below a text file."""
    raw: Any = file.buffer
    return raw.raw  # type: ignore[no-any-return]
