"""Write sessions."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING

from ._errors import BadHandle

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Buffer, Self

    from . import _native


class Session:
    """A file open for writing at any offset, which can be left and taken up again.

    The branch shows the old version until :meth:`close` commits the new one. A ``with`` block
    closes it at its end, and throws away what was written if an exception leaves it, be it that of
    the close; so does the garbage collector. A session whose process dies, or that was detached,
    stays in the store: ``sessions`` lists it, ``store.resume_session`` takes it up again,
    ``store.abort_session`` throws it away.

    >>> import alknet_fs
    >>> store = alknet_fs.memory()
    >>> branch = store.branch()
    >>> session = branch.open_session("/report.txt", owner="agent-7")
    >>> session.append(b"first part, ")
    0
    >>> number = session.detach()
    >>> [(found.path, found.owner, found.staged) for found in branch.sessions()]
    [('/report.txt', 'agent-7', 12)]
    >>> with store.resume_session(number) as session:
    ...     session.append(b"second part")
    12
    >>> branch.read_bytes("/report.txt")
    b'first part, second part'
    """

    def __init__(self, native: _native.Session) -> None:
        self._native = native
        self._open = True
        self._path = native.path
        self._id = native.id

    @property
    def id(self) -> int:
        """The number by which the session can be found after a crash."""
        return self._id

    @property
    def path(self) -> str:
        """The path the session will write, links resolved."""
        return self._path

    @property
    def size(self) -> int:
        """The size the file has in this session, in bytes."""
        return self._native.size

    @property
    def closed(self) -> bool:
        """Whether the session was closed, aborted or detached."""
        return not self._open

    def pread(self, size: int, offset: int) -> bytes:
        """Read up to ``size`` bytes at an offset, what was written included."""
        return self._native.pread(size, offset)

    def pwrite(self, data: Buffer, offset: int) -> int:
        """Write all bytes at an offset; a gap before it reads as zeros. Returns how many."""
        return self._native.pwrite(data, offset)

    def append(self, data: Buffer) -> int:
        """Write all bytes at the end of the file as it is in this session; returns the offset."""
        return self._native.append(data)

    def truncate(self, size: int) -> None:
        """Cut the file, or extend it with zeros."""
        self._native.truncate(size)

    def sync(self) -> None:
        """Make what was written so far survive a power cut, without committing it."""
        self._native.sync()

    def close(
        self,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        mtime_ns: int | None = None,
    ) -> _native.Closed:
        """Commit what was written, with attributes, and return what was.

        Where that fails, the session stays open with all of it.
        """
        closed = self._native.close(mode=mode, uid=uid, gid=gid, mtime_ns=mtime_ns)
        self._open = False
        return closed

    def abort(self) -> None:
        """Throw away what was written."""
        self._native.abort()
        self._open = False

    def detach(self) -> int:
        """Leave the session in the store, to be resumed by anyone; returns its number."""
        self._open = False
        return self._native.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Commit, unless that was done, or abort if an exception left the block or that fails."""
        if not self._open:
            return
        try:
            if kind is None:
                self.close()
        finally:
            # A store that is closed has thrown away what was written.
            with contextlib.suppress(BadHandle):
                if self._open:
                    self.abort()

    def __del__(self) -> None:
        if getattr(self, "_open", False):
            detail = f"{self!r} was never closed: what was written to it is lost"
            try:
                warnings.warn(detail, ResourceWarning, stacklevel=2, source=self)
            finally:
                # The store may be closed, or be that of the parent process.
                with contextlib.suppress(BadHandle):
                    self.abort()

    def __repr__(self) -> str:
        state = "" if self._open else "closed "
        return f"<{state}alknet_fs.Session {self._id} {self._path!r}>"
