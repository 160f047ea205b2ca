"""Watching for events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ._errors import BadHandle

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Self

    from . import _native


def patterns(glob: str | Iterable[str] | None) -> list[str]:
    """Make a list of one pattern, of several, or of none."""
    if glob is None:
        return []
    return [glob] if isinstance(glob, str) else list(glob)


class Watch(Iterator["_native.Event"]):
    """An iterator over events in the order of their commits, each once, whoever committed them.

    It waits for the next event until it is closed or, with a ``timeout``, until nothing happened
    for so many seconds. A watch that was given the cursor of another goes on where that one stood,
    in any process. Several threads may take events from one watch; any thread may close it.

    >>> import alknet_fs
    >>> branch = alknet_fs.memory().branch()
    >>> with branch.watch("*.txt", timeout=0) as watch:
    ...     _ = branch.write_bytes("/a.txt", b"one")
    ...     _ = branch.write_bytes("/b.bin", b"two")
    ...     branch.rename("/a.txt", "/c.txt")
    ...     for event in watch:
    ...         print(event.op, event.from_path, event.path)
    create None /a.txt
    rename /a.txt /c.txt
    """

    def __init__(self, native: _native.Watch, timeout: float | None) -> None:
        self._native = native
        self._timeout = timeout

    @property
    def cursor(self) -> int:
        """The position after the last event that was delivered, to pass as ``after``."""
        return self._native.cursor

    @property
    def closed(self) -> bool:
        """Whether the watch was closed."""
        return self._native.closed

    def next(self, timeout: float | None = None) -> _native.Event | None:
        """Wait for the next event, for ever or up to some seconds; ``None`` when they are over."""
        events = self._native.take(timeout, 1)
        return events[0] if events else None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _native.Event:
        try:
            event = self.next(self._timeout)
        except BadHandle:
            if self.closed:
                raise StopIteration from None
            raise
        if event is None:
            raise StopIteration
        return event

    def close(self) -> None:
        """End the watch, also for a thread that waits in it."""
        self._native.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
