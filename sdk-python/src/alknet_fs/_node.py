"""The node that keeps a store's shared buckets the same as those of its peers."""

from __future__ import annotations

import atexit
import contextlib
import warnings
import weakref
from typing import TYPE_CHECKING

from ._errors import AlkError

if TYPE_CHECKING:
    from typing_extensions import Self

    from . import _native

_running: weakref.WeakSet[Node] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """Tell the peers of nodes that still run when the interpreter ends."""
    for node in list(_running):
        with contextlib.suppress(AlkError):
            node.stop()


class Node:
    """A running node: ``with store.node(): ...`` or ``node = store.node()`` and ``node.stop()``.

    It works in threads of its own, and one process of a store runs it for all: what others share,
    join and write there, it follows. It stops at the end of a ``with`` block, with its store, and
    when the interpreter ends. One that is collected as garbage stops too, with a
    ``ResourceWarning``.

    >>> import alknet_fs, tempfile
    >>> with alknet_fs.open(tempfile.mkdtemp()) as store, store.node(loopback=True) as node:
    ...     print(len(node.id), node.running, node.status().peers)
    64 True []
    """

    def __init__(self, native: _native.Node) -> None:
        self._native = native
        self._open = True
        _running.add(self)

    @property
    def id(self) -> str:
        """The node's key, by which peers tell it from others. It stays with the store."""
        return self._native.id

    @property
    def running(self) -> bool:
        """Whether it was neither stopped nor its store closed, and did not end by itself.

        It ends by itself where it cannot go on, such as after its store was replaced; ``status()``
        says why, and ``stop()`` makes room for another one.
        """
        return self._native.running

    def status(self) -> _native.SyncStatus:
        """Tell how it stands with each peer and bucket at this moment.

        ``store.sync_status()`` tells what any process may know of it, up to a second later.
        """
        return self._native.status()

    def stop(self) -> None:
        """Tell the peers, and wait until nothing of it works any more. Again does nothing."""
        self._open = False
        _running.discard(self)
        self._native.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __del__(self) -> None:
        # A store that is closed has stopped it.
        if getattr(self, "_open", False) and self._native.running:
            try:
                detail = f"{self!r} was never stopped"
                warnings.warn(detail, ResourceWarning, stacklevel=2, source=self)
            finally:
                self.stop()

    def __repr__(self) -> str:
        state = "" if self.running else "stopped "
        return f"<{state}alknet_fs.Node {self.id[:10]}>"
