"""Words that are arguments, as type checkers know them: modes of ``open``, kinds and others."""

from typing import Literal, Protocol, Union

# fmt: off
OpenTextModeReading = Literal[
    "r", "rt", "tr",
]
OpenTextModeWriting = Literal[
    "w", "wt", "tw", "a", "at", "ta", "x", "xt", "tx",
]
OpenTextModeUpdating = Literal[
    "r+", "+r", "r+t", "rt+", "+rt", "tr+", "t+r", "+tr", "w+", "+w", "w+t", "wt+", "+wt",
    "tw+", "t+w", "+tw", "a+", "+a", "a+t", "at+", "+at", "ta+", "t+a", "+ta", "x+", "+x",
    "x+t", "xt+", "+xt", "tx+", "t+x", "+tx",
]
OpenBinaryModeReading = Literal[
    "rb", "br",
]
OpenBinaryModeWriting = Literal[
    "wb", "bw", "ab", "ba", "xb", "bx",
]
OpenBinaryModeUpdating = Literal[
    "r+b", "rb+", "+rb", "br+", "b+r", "+br", "w+b", "wb+", "+wb", "bw+", "b+w", "+bw",
    "a+b", "ab+", "+ab", "ba+", "b+a", "+ba", "x+b", "xb+", "+xb", "bx+", "b+x", "+bx",
]
# fmt: on
OpenTextMode = Union[OpenTextModeReading, OpenTextModeWriting, OpenTextModeUpdating]  # noqa: UP007
OpenBinaryMode = Union[  # noqa: UP007
    OpenBinaryModeReading, OpenBinaryModeWriting, OpenBinaryModeUpdating
]
EventOp = Literal[
    "create",
    "modify",
    "attributes",
    "remove",
    "rename",
    "fork",
    "rename_branch",
    "delete_branch",
    "snapshot",
    "delete_snapshot",
    "restore",
]
EntryKind = Literal["file", "dir", "symlink"]
Access = Literal["read", "write"]
ContentPolicy = Literal["eager", "on-read"]
Ended = Literal["revoked", "expired"]
Keep = Literal["shown", "both"]


class InTree(Protocol):
    """A path or an entry of a tree."""

    def __alkfs_path__(self) -> str: ...
