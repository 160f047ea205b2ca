"""The exceptions: each is an :class:`AlkError` and the ``OSError`` that Python has for it."""

from __future__ import annotations

import errno as _errno
import io
from typing import TYPE_CHECKING

from . import _native

if TYPE_CHECKING:
    from collections.abc import Sequence


class AlkError(OSError):
    """An operation on a store failed.

    ``errno`` and ``strerror`` are those of every ``OSError``; ``filename`` is the path or name.

    >>> import alknet_fs
    >>> try:
    ...     alknet_fs.memory().branch().read_bytes("/missing")
    ... except FileNotFoundError as error:
    ...     assert isinstance(error, alknet_fs.AlkError)
    ...     print(error.kind, error.op, error.path)
    NotFound read /missing
    """

    kind: str = "Io"
    """What went wrong; the same words in every language, for example ``"NotFound"``."""
    code: str = "EIO"
    """The symbolic POSIX code, for example ``"ENOENT"``."""
    op: str | None = None
    """The operation that failed, if known."""
    path: str | None = None
    """The path or name the operation was on, if known."""


class NotFound(AlkError, FileNotFoundError):
    """No entry, bucket, branch, snapshot, session or content has that name."""


class AlreadyExists(AlkError, FileExistsError):
    """The name is taken and the operation does not replace."""


class NotADirectory(AlkError, NotADirectoryError):
    """A component that must be a directory is something else."""


class IsADirectory(AlkError, IsADirectoryError):
    """A file operation met a directory."""


class NotEmpty(AlkError):
    """The directory still has entries."""


class InvalidPath(AlkError):
    """The path or name breaks the rules of paths."""


class NameTooLong(AlkError):
    """A name of over 255 bytes or a path of over 4,096 bytes."""


class InvalidInput(AlkError):
    """An argument is out of its range, or the operation makes no sense on its operands."""


class TooManyLinks(AlkError):
    """More than 40 symbolic links were followed."""


class Locked(AlkError):
    """Another session holds the exclusive lock of the path."""


class InUse(AlkError):
    """The object cannot go while others depend on it, for example a branch with children."""


class ReadOnly(AlkError):
    """The object can be read but not written, for example a snapshot."""


class BadHandle(AlkError, io.UnsupportedOperation):
    """The file or store is closed, or was not opened for this."""


class PermissionDenied(AlkError, PermissionError):
    """The caller may not do this."""


class NoSpace(AlkError):
    """The disk is full."""


class TooLarge(AlkError):
    """The file would be larger than the largest supported size."""


class Busy(AlkError, BlockingIOError):
    """The store stayed busy for longer than the busy timeout."""


class Lagged(AlkError):
    """The event cursor points at events that were pruned."""


class Cancelled(AlkError):
    """The caller asked the operation to stop."""


class Corrupt(AlkError):
    """Stored data does not match its hash or its structure."""


class ContentUnavailable(AlkError):
    """The content is not here, and did not come from whoever may have it."""

    content: str | None = None
    """The content's BLAKE3 hash, if known."""
    asked: tuple[str, ...] = ()
    """Who was asked for it: the name of each peer, or the beginning of its key."""


class NotAStore(AlkError):
    """The directory is not an alknet-fs store, or a version this program cannot read."""


class Unsupported(AlkError, io.UnsupportedOperation):
    """The operation is not offered, for example hard links."""


_CLASSES = {cls.__name__: cls for cls in AlkError.__subclasses__()}
_CODES = {name: (code, getattr(_errno, code, number)) for name, code, number, _ in _native.kinds()}


def make(
    kind: str,
    message: str,
    path: str | None,
    op: str | None,
    content: str | None = None,
    asked: Sequence[str] = (),
) -> AlkError:
    """Make the exception for an error of the engine."""
    cls = _CLASSES.get(kind, AlkError)
    code, number = _CODES[kind]
    error = cls(number, message) if path is None else cls(number, message, path)
    error.kind = kind
    error.code = code
    error.op = op
    error.path = path
    if isinstance(error, ContentUnavailable):
        error.content = content
        error.asked = tuple(asked)
    return error
