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

from . import _native
from ._errors import (
    AlkError,
    AlreadyExists,
    BadHandle,
    Busy,
    Cancelled,
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
from ._native import BranchInfo, Closed, Difference, DirEntry, Entry, Snapshot
from ._tree import Batch, Branch, Bucket, Store, View, create, memory, open

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
    "Cancelled",
    "Closed",
    "Corrupt",
    "Difference",
    "DirEntry",
    "Entry",
    "File",
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
    "PermissionDenied",
    "ReadOnly",
    "Snapshot",
    "Store",
    "TextFile",
    "TooLarge",
    "TooManyLinks",
    "Unsupported",
    "View",
    "create",
    "memory",
    "open",
]

if hasattr(_os, "register_at_fork"):
    _os.register_at_fork(after_in_child=_native.forked)
