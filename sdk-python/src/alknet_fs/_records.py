"""Pickling what calls return, so that it can be sent to another process."""

from __future__ import annotations

import copyreg

from . import _native


def _restored(name: str, state: str) -> object:
    return _native.load_record(name, state)


def _reduce(record: object) -> tuple[object, tuple[str, str]]:
    return _restored, (type(record).__name__, _native.save_record(record))


_RECORDS = (
    _native.Behind,
    _native.BranchInfo,
    _native.Closed,
    _native.Conflict,
    _native.ConflictSide,
    _native.ContentSettings,
    _native.Difference,
    _native.Entry,
    _native.Event,
    _native.EventPeer,
    _native.EvictReport,
    _native.ExportReport,
    _native.FetchReport,
    _native.FsckReport,
    _native.GcReport,
    _native.GcSchedule,
    _native.GrantInfo,
    _native.ImportReport,
    _native.JoinInfo,
    _native.MemberInfo,
    _native.NameConflict,
    _native.PeerInfo,
    _native.PeerStatus,
    _native.Problem,
    _native.Progress,
    _native.SessionInfo,
    _native.Sharing,
    _native.Snapshot,
    _native.Stats,
    _native.SyncStatus,
    _native.TreeSharing,
    _native.Unfetched,
    _native.Unsent,
)


def register() -> None:
    """Let :mod:`pickle` and :mod:`copy` know the records, also in a process that unpickles them."""
    for record in _RECORDS:
        copyreg.pickle(record, _reduce)  # type: ignore[arg-type]
