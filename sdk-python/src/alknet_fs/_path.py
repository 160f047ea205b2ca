"""Paths of a tree with the feel of :mod:`pathlib`."""

from __future__ import annotations

import contextlib
import os
from contextlib import nullcontext
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from ._errors import InvalidPath, NameTooLong, TooManyLinks, make

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from typing import Literal, TypeAlias

    from typing_extensions import Buffer, Self

    from . import _native
    from ._files import BufferedRandom, BufferedReader, BufferedWriter, File, TextFile
    from ._modes import (
        InTree,
        OpenBinaryMode,
        OpenBinaryModeReading,
        OpenBinaryModeUpdating,
        OpenBinaryModeWriting,
        OpenTextMode,
    )
    from ._tree import Branch, View

    AnyTree: TypeAlias = "Branch | View"
    Part = str | os.PathLike[str] | InTree


_Tree = TypeVar("_Tree")

_NOTHING_THERE = (
    FileNotFoundError,
    NotADirectoryError,
    TooManyLinks,
    InvalidPath,
    NameTooLong,
)


def text_of(part: Any) -> Any:
    """Return the text of a path or an entry of a tree; anything else as it is."""
    text = getattr(part, "__alkfs_path__", None)
    return part if text is None else text()


def _still(tree: AnyTree) -> AbstractContextManager[View]:
    """Return a view of a tree, to read more than once from the same state."""
    from ._tree import Branch

    return tree.view() if isinstance(tree, Branch) else nullcontext(tree)


class TreePath(Generic[_Tree]):
    """The text of a path of a tree, as ``pathlib.PurePosixPath``; always absolute."""

    __slots__ = ("_pure", "_tree")

    def __init__(self, tree: _Tree, *parts: Part) -> None:
        self._tree = tree
        self._pure = PurePosixPath("/", *map(text_of, parts))

    def _at(self, pure: PurePosixPath | str) -> Self:
        return type(self)(self._tree, pure)

    @property
    def tree(self) -> _Tree:
        """The branch or view that the path is in."""
        return self._tree

    # The text.

    def __alkfs_path__(self) -> str:
        # Not __fspath__: a function of the operating system would take the text for a path there.
        return str(self._pure)

    def __str__(self) -> str:
        return str(self._pure)

    def __repr__(self) -> str:
        module = type(self).__module__.replace("._path", "")
        return f"{module}.Path({self._tree!r}, {str(self._pure)!r})"

    def __bytes__(self) -> bytes:
        return str(self._pure).encode()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TreePath):
            return NotImplemented
        there = cast("Any", other)
        return bool(self._pure == there._pure and self._tree == there._tree)

    def __hash__(self) -> int:
        return hash((self._pure, self._tree))

    def __lt__(self, other: TreePath[Any]) -> bool:
        return self._pure < other._pure

    def __le__(self, other: TreePath[Any]) -> bool:
        return self._pure <= other._pure

    def __gt__(self, other: TreePath[Any]) -> bool:
        return self._pure > other._pure

    def __ge__(self, other: TreePath[Any]) -> bool:
        return self._pure >= other._pure

    def __truediv__(self, part: Part) -> Self:
        return self._at(self._pure / text_of(part))

    def __reduce__(self) -> tuple[type[Self], tuple[_Tree, str]]:
        return type(self), (self._tree, str(self._pure))

    def as_posix(self) -> str:
        """Return the text."""
        return str(self._pure)

    @property
    def parts(self) -> tuple[str, ...]:
        """The components, the first of which is ``"/"``."""
        return self._pure.parts

    @property
    def name(self) -> str:
        """The last component; empty for the root."""
        return self._pure.name

    @property
    def stem(self) -> str:
        """The last component without its suffix."""
        return self._pure.stem

    @property
    def suffix(self) -> str:
        """The last component's suffix with its dot, or nothing."""
        return self._pure.suffix

    @property
    def suffixes(self) -> list[str]:
        """All suffixes of the last component."""
        return self._pure.suffixes

    @property
    def parent(self) -> Self:
        """The directory that the path is in; of the root, itself."""
        return self._at(self._pure.parent)

    @property
    def parents(self) -> Sequence[Self]:
        """The directories above, from the nearest."""
        return [self._at(pure) for pure in self._pure.parents]

    def is_absolute(self) -> bool:
        """Tell that the path is absolute."""
        return True

    def joinpath(self, *parts: Part) -> Self:
        """Append components."""
        return self._at(self._pure.joinpath(*map(text_of, parts)))

    def with_name(self, name: str) -> Self:
        """Replace the last component."""
        return self._at(self._pure.with_name(name))

    def with_stem(self, stem: str) -> Self:
        """Replace the last component but for its suffix."""
        return self._at(self._pure.with_stem(stem))

    def with_suffix(self, suffix: str) -> Self:
        """Replace the suffix, or append one."""
        return self._at(self._pure.with_suffix(suffix))

    def relative_to(self, other: Part) -> PurePosixPath:
        """Return the path relative to another, as a pure path without a tree."""
        return self._pure.relative_to(PurePosixPath("/", text_of(other)))

    def is_relative_to(self, other: Part) -> bool:
        """Tell whether the path is another or below it."""
        return self._pure.is_relative_to(PurePosixPath("/", text_of(other)))

    def match(self, pattern: str) -> bool:
        """Tell whether the path matches a pattern, as ``pathlib.PurePath.match``."""
        return self._pure.match(pattern)


class Path(TreePath["AnyTree"]):
    """A path of a branch or of a view: what ``pathlib.Path`` is to the operating system.

    ``branch.path("a", "b")`` and ``branch / "a" / "b"`` make one. It is always absolute. Two paths
    are equal where their text and their tree are.

    All calls of this package take it. The builtin ``open``, ``os``, ``shutil`` and all else that
    works on the operating system's files refuse it: it is no ``os.PathLike``, as the text, which
    ``str`` gives, would name another file there.

    >>> import alknet_fs
    >>> branch = alknet_fs.memory().branch()
    >>> readme = branch / "docs" / "README.md"
    >>> readme.parent.mkdir()
    >>> readme.write_text("Hello")
    5
    >>> readme.with_suffix(".txt").exists()
    False
    >>> [str(path) for path in branch.path().rglob("*.md")]
    ['/docs/README.md']
    """

    __slots__ = ()

    @property
    def _branch(self) -> Branch:
        from ._tree import Branch

        if isinstance(self._tree, Branch):
            return self._tree
        raise make("ReadOnly", "a view can only be read", str(self), None)

    # What is there.

    def stat(self, *, follow_symlinks: bool = True) -> _native.Entry:
        """Return what is there."""
        return self._tree.stat(self, follow_symlinks=follow_symlinks)

    def lstat(self) -> _native.Entry:
        """Return what is there; a link is not followed."""
        return self._tree.lstat(self)

    def exists(self) -> bool:
        """Tell whether something is there."""
        return self._tree.exists(self)

    def is_dir(self) -> bool:
        """Tell whether a directory is there, or a link to one."""
        return self._tree.is_dir(self)

    def is_file(self) -> bool:
        """Tell whether a regular file is there, or a link to one."""
        return self._tree.is_file(self)

    def is_symlink(self) -> bool:
        """Tell whether a symbolic link is there."""
        try:
            return self._tree.lstat(self).is_symlink()
        except _NOTHING_THERE:
            return False

    def samefile(self, other: Part) -> bool:
        """Tell whether both lead to the same entry of the tree."""
        return self._tree.realpath(self) == self._tree.realpath(other)

    def resolve(self, strict: bool = False) -> Path:
        """Return the path without links and ``..``; what is missing stays unless ``strict``."""
        try:
            return self._at(self._tree.realpath(self))
        except (FileNotFoundError, NotADirectoryError):
            if strict or self.parent == self:
                raise
            return self.parent.resolve() / self.name

    def readlink(self) -> PurePosixPath:
        """Return what a symbolic link points to, as a pure path without a tree."""
        return PurePosixPath(self._tree.readlink(self))

    def iterdir(self) -> Iterator[Path]:
        """Iterate over the entries of a directory, sorted by name."""
        names = self._tree.listdir(self)
        return (self / name for name in names)

    def glob(self, pattern: str) -> Iterator[Path]:
        """Iterate over the paths below that match a pattern, ``**`` for any directories."""
        if not pattern:
            raise ValueError(f"unacceptable pattern: {pattern!r}")
        anchored = pattern if pattern.startswith("/") else f"/{pattern}"
        found: list[str] = []
        base = "/"
        with _still(self._tree) as view, contextlib.suppress(*_NOTHING_THERE):
            base = view.realpath(self)
            if view.is_dir(base):
                found = view.glob(anchored, base)
        return (self._at(self._pure / PurePosixPath(path).relative_to(base)) for path in found)

    def rglob(self, pattern: str) -> Iterator[Path]:
        """Iterate over the paths at any depth below that match a pattern."""
        return self.glob(f"**/{pattern}")

    def walk(
        self,
        top_down: bool = True,
        on_error: Callable[[OSError], object] | None = None,
        follow_symlinks: bool = False,
    ) -> Iterator[tuple[Path, list[str], list[str]]]:
        """Walk through the directories at and below the path, as ``pathlib.Path.walk``."""
        for path, dirs, files in self._tree.walk(self, top_down, on_error, follow_symlinks):
            yield self._at(path), dirs, files

    # Reading and writing.

    def read_bytes(self) -> bytes:
        """Read the whole file."""
        return self._tree.read_bytes(self)

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """Read the whole file as text, UTF-8 unless told otherwise."""
        return self._tree.read_text(self, encoding, errors)

    def write_bytes(self, data: Buffer) -> int:
        """Write the whole file in one durable commit; returns its size."""
        return self._branch.write_bytes(self, data)

    def write_text(
        self,
        data: str,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> int:
        """Write the whole file as text, UTF-8 unless told otherwise; returns its characters."""
        return self._branch.write_text(self, data, encoding, errors, newline)

    @overload
    def open(
        self,
        mode: OpenTextMode = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> TextFile: ...

    @overload
    def open(self, mode: OpenBinaryMode, buffering: Literal[0]) -> File: ...

    @overload
    def open(
        self, mode: OpenBinaryModeReading, buffering: Literal[-1, 1] = -1
    ) -> BufferedReader: ...

    @overload
    def open(
        self, mode: OpenBinaryModeWriting, buffering: Literal[-1, 1] = -1
    ) -> BufferedWriter: ...

    @overload
    def open(
        self, mode: OpenBinaryModeUpdating, buffering: Literal[-1, 1] = -1
    ) -> BufferedRandom: ...

    @overload
    def open(
        self,
        mode: str,
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any: ...

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """Open the file as the builtin ``open``; see ``Branch.open``."""
        return self._tree.open(self, mode, buffering, encoding, errors, newline)

    # Changing.

    def mkdir(self, mode: int = 0o755, parents: bool = False, exist_ok: bool = False) -> None:
        """Make a directory; with ``parents``, those above it that are missing as well."""
        try:
            if parents:
                self._branch.makedirs(self, mode)
            else:
                self._branch.mkdir(self, mode)
        except FileExistsError:
            if not exist_ok or not self.is_dir():
                raise

    def touch(self, mode: int = 0o644, exist_ok: bool = True) -> None:
        """Make an empty file; where there is one, set its time of modification to now."""
        try:
            self._branch.write_bytes(self, b"", replace=False, mode=mode)
        except FileExistsError:
            if not exist_ok:
                raise
            self._branch.utime(self)

    def rename(self, target: Part) -> Path:
        """Rename to a path of the same branch, replacing what is there; returns the new path."""
        new = self._at(PurePosixPath("/", text_of(target)))
        self._branch.rename(self, new)
        return new

    def replace(self, target: Part) -> Path:
        """Rename, as :meth:`rename`."""
        return self.rename(target)

    def copy(self, target: Part) -> Path:
        """Copy, a directory with all below it, at no cost of space; returns the new path."""
        new = self._at(PurePosixPath("/", text_of(target)))
        self._branch.copy(self, new)
        return new

    def symlink_to(self, target: Part, target_is_directory: bool = False) -> None:
        """Make a symbolic link that points to a target, which need not exist."""
        self._branch.symlink(target, self)

    def hardlink_to(self, target: Part) -> None:
        """Refuse to make a hard link: an entry has one path, and a copy costs no space."""
        self._branch.link(target, self)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove a file or a link."""
        try:
            self._branch.unlink(self)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmdir(self) -> None:
        """Remove an empty directory."""
        self._branch.rmdir(self)

    def rmtree(self) -> int:
        """Remove whatever is there, a directory with all below it; returns how many entries."""
        return self._branch.rmtree(self)

    def chmod(self, mode: int, *, follow_symlinks: bool = True) -> None:
        """Change the permission bits."""
        self._branch.chmod(self, mode, follow_symlinks=follow_symlinks)

    def lchmod(self, mode: int) -> None:
        """Change the permission bits; a link is not followed."""
        self._branch.chmod(self, mode, follow_symlinks=False)
