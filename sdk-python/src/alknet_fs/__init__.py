"""A content-addressed, branch-aware filesystem that programs embed.

>>> import alknet_fs
>>> store = alknet_fs.memory()
>>> main = store.branch("main")
>>> main.write_text("/hello.txt", "hello")
5
>>> main.read_text("/hello.txt")
'hello'
"""

import os as _os

from . import _native, _records
from ._errors import (
    AlkError,
    AlreadyExists,
    BadHandle,
    Busy,
    Cancelled,
    ContentUnavailable,
    Corrupt,
    InUse,
    InvalidInput,
    InvalidPath,
    IsADirectory,
    Lagged,
    Locked,
    NameTooLong,
    NoSpace,
    NotADirectory,
    NotAStore,
    NotEmpty,
    NotFound,
    PermissionDenied,
    ReadOnly,
    TooLarge,
    TooManyLinks,
    Unsupported,
)
from ._files import BufferedRandom, BufferedReader, BufferedWriter, File, TextFile
from ._native import (
    BranchInfo,
    Cancel,
    Closed,
    Difference,
    DirEntry,
    Entry,
    Event,
    ExportReport,
    FsckReport,
    GcReport,
    GcSchedule,
    ImportReport,
    Problem,
    Progress,
    Reader,
    SessionInfo,
    Sharing,
    Snapshot,
    Stats,
    TreeSharing,
)
from ._path import Path
from ._session import Session
from ._tree import Batch, Branch, Bucket, Store, View, create, memory, open
from ._watch import Watch

__all__ = [
    "AlkError",
    "AlreadyExists",
    "BadHandle",
    "Batch",
    "Branch",
    "BranchInfo",
    "Bucket",
    "BufferedRandom",
    "BufferedReader",
    "BufferedWriter",
    "Busy",
    "Cancel",
    "Cancelled",
    "Closed",
    "ContentUnavailable",
    "Corrupt",
    "Difference",
    "DirEntry",
    "Entry",
    "Event",
    "ExportReport",
    "File",
    "FsckReport",
    "GcReport",
    "GcSchedule",
    "ImportReport",
    "InUse",
    "InvalidInput",
    "InvalidPath",
    "IsADirectory",
    "Lagged",
    "Locked",
    "NameTooLong",
    "NoSpace",
    "NotADirectory",
    "NotAStore",
    "NotEmpty",
    "NotFound",
    "Path",
    "PermissionDenied",
    "Problem",
    "Progress",
    "ReadOnly",
    "Reader",
    "Session",
    "SessionInfo",
    "Sharing",
    "Snapshot",
    "Stats",
    "Store",
    "TextFile",
    "TooLarge",
    "TooManyLinks",
    "TreeSharing",
    "Unsupported",
    "View",
    "Watch",
    "create",
    "memory",
    "open",
]

_records.register()
if hasattr(_os, "register_at_fork"):
    _os.register_at_fork(after_in_child=_native.forked)
