# pyright: basic
"""A store as an fsspec filesystem: for pandas, pyarrow, DuckDB, zarr, dask and others.

Install it with ``pip install alknet-fs[fsspec]``. A URL names a bucket, a branch and a path in it,
``alkfs://BUCKET/BRANCH/PATH``, and ``BRANCH@SNAPSHOT`` reads one of its snapshots. The store is
named beside the URL: ``storage_options={"store": "my.store"}``, or for all URLs by the environment
variable ``ALKFS_STORE``.

>>> import alknet_fs, fsspec, tempfile
>>> folder = tempfile.mkdtemp()
>>> alknet_fs.open(folder).close()
>>> with fsspec.open("alkfs://default/main/notes/a.txt", "w", store=folder) as file:
...     file.write("hello")
5
>>> fs = fsspec.filesystem("alkfs", store=folder)
>>> fs.ls("alkfs://default/main/notes", detail=False)
['default/main/notes/a.txt']

With ``branch`` given, paths are those inside of that branch:

>>> main = fsspec.filesystem("alkfs", store=folder, branch="main")
>>> main.cat_file("/notes/a.txt")
b'hello'

Everything in a transaction of one branch becomes visible at once, or nothing does:

>>> with main.transaction:
...     main.pipe_file("/notes/b.txt", b"bee")
...     main.rm("/notes/a.txt")
...     main.exists("/notes/a.txt")
True
>>> main.ls("/notes", detail=False)
['notes/b.txt']
"""

from __future__ import annotations

import datetime
import io
import os
import shutil
import threading
import time
import weakref
from contextlib import contextmanager, nullcontext, suppress
from glob import has_magic
from typing import TYPE_CHECKING, Any, NamedTuple

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.compression import compr
from fsspec.config import apply_config
from fsspec.core import get_compression
from fsspec.spec import AbstractFileSystem, _Cached
from fsspec.transaction import Transaction
from fsspec.utils import isfilelike, stringify_path

from . import _errors, _files, _tree
from ._path import _NOTHING_THERE, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from types import TracebackType

    from ._native import DirEntry, Entry

__all__ = ["AlkFileSystem", "AlkTransaction"]

STORE_VARIABLE = "ALKFS_STORE"
"""Names the store where nothing else does; the command line reads it too."""

_BLOCK = 1024 * 1024

_NOT_THERE = (*_NOTHING_THERE, _errors.InvalidInput, UnicodeEncodeError)

# What fsspec itself takes, and what libraries give to every filesystem.
_OF_FSSPEC = {
    "add_aliases",
    "add_docs",
    "asynchronous",
    "batch_size",
    "listings_expiry_time",
    "loop",
    "max_paths",
    "use_listings_cache",
}

_stores: weakref.WeakValueDictionary[tuple[object, ...], _tree.Store] = (
    weakref.WeakValueDictionary()
)
_stores_lock = threading.Lock()


def _shared_store(path: str, create: bool, **options: Any) -> _tree.Store:
    """Open a store, or return it if another filesystem of this process has it open."""
    key = (path, *options.values())
    with _stores_lock:
        store = _stores.get(key)
        if store is None or store.closed:
            store = _tree.open(path, create=create, **options)
            _stores[key] = store
        return store


def _forget_stores() -> None:
    """Forget the stores of the parent after a fork, where another thread may have held the lock."""
    global _stores_lock
    _stores_lock = threading.Lock()
    _stores.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_stores)


class _ByStore(_Cached):  # type: ignore[misc]
    """Resolves the store before fsspec looks for a filesystem it has made already.

    An instance then belongs to one store, whatever the working directory and the environment are
    when it is asked for again, or unpickled in another process.
    """

    def __call__(cls, *args: Any, **options: Any) -> Any:
        if args:
            options["store"], args = args[0], args[1:]
        options = apply_config(cls, options)
        store = options.get("store") or os.environ.get(STORE_VARIABLE)
        if not store:
            raise ValueError(
                "no store is named: give store=PATH (with a URL, "
                f'storage_options={{"store": PATH}}), or set {STORE_VARIABLE}'
            )
        if isinstance(store, _tree.Store):
            # Two stores in memory look alike to fsspec's cache of instances.
            options["skip_instance_cache"] = True
        else:
            store = os.path.abspath(os.fsdecode(stringify_path(store)))
        options["store"] = store
        return super().__call__(*args, **options)


class _Place(NamedTuple):
    """What a path names: ``None`` where it ends before the bucket or the branch."""

    bucket: str | None
    branch: str | None
    snapshot: str | None
    path: str

    @property
    def tree(self) -> tuple[str | None, str | None, str | None]:
        return self[:3]

    @property
    def parent(self) -> str:
        return self.path.rpartition("/")[0] or "/"


class AlkFileSystem(AbstractFileSystem, metaclass=_ByStore):  # type: ignore[misc]
    """The trees of a store as an fsspec filesystem, of the protocol ``alkfs``.

    Paths are ``BUCKET/BRANCH/PATH`` or ``BUCKET/BRANCH@SNAPSHOT/PATH``; with ``bucket`` given,
    ``BRANCH/PATH``; with ``branch`` given, ``PATH``.

    What is written to a file shows when it is closed, in one durable commit. A
    ``with fs.open(...)`` block that an exception leaves, and a file that nobody closes, change
    nothing; the files of ``fsspec.open`` are closed, and so committed, in any case. Copies share
    their content, renames are atomic, and :meth:`checksum` and :meth:`ukey` are of the content's
    hash. A link to a directory is listed as ``"other"``, so that nothing that walks a tree goes in
    circles. Nothing is cached: others may change the store at any time.

    ``block_size`` and ``cache_options`` of :meth:`open` are ignored: there is no network.
    """

    protocol = "alkfs"
    cachable = True

    def __init__(
        self,
        store: str | os.PathLike[str] | _tree.Store | None = None,
        *,
        bucket: str | None = None,
        branch: str | None = None,
        snapshot: str | None = None,
        create: bool = False,
        auto_mkdir: bool = True,
        author: str | None = None,
        durability: str = "full",
        busy_timeout: float | None = None,
        **storage_options: Any,
    ) -> None:
        """Open a filesystem.

        ``store`` is the path of a store, or an open one; else the environment variable
        ``ALKFS_STORE`` names it. A missing one is an error unless ``create``. ``branch`` without
        ``bucket`` is of the bucket ``default``. A writer makes the directories above a file
        unless ``auto_mkdir`` is false. The rest is as for :func:`alknet_fs.open`; beyond it, only
        what fsspec gives to every filesystem is taken.
        """
        if self._cached:
            return
        for name in storage_options:
            if name not in _OF_FSSPEC:
                raise TypeError(f"AlkFileSystem has no option {name!r}")
        storage_options["use_listings_cache"] = False
        super().__init__(**storage_options)
        assert store is not None, "the metaclass puts it there"
        if snapshot is not None and branch is None:
            raise ValueError("snapshot is given without branch")
        if branch is not None and bucket is None:
            bucket = "default"
        self._fixed = (bucket, branch, snapshot)
        self.auto_mkdir = auto_mkdir
        self._given = store
        self._options = {
            "author": author,
            "durability": durability,
            "busy_timeout": busy_timeout,
        }
        self._create = create
        self._local = threading.local()
        self._store = self._open_store()

    def _open_store(self) -> _tree.Store:
        if isinstance(self._given, _tree.Store):
            return self._given
        return _shared_store(os.fspath(self._given), self._create, **self._options)

    @property
    def store(self) -> _tree.Store:
        """The store; after ``os.fork()`` the child gets one of its own."""
        if self._store.closed:
            self._store = self._open_store()
        return self._store

    @property
    def fsid(self) -> str:
        """What tells this store from others, also in another session."""
        return f"alkfs-{self._fs_token}"

    @property
    def _fs_token(self) -> Any:
        if isinstance(self._given, _tree.Store):
            return f"{self._fs_token_}{id(self._given):x}"
        return self._fs_token_

    # Paths

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(item) for item in path]
        path = stringify_path(text_of(path))
        for prefix in ("alkfs://", "alkfs::"):
            path = path.removeprefix(prefix)
        return path.strip("/")

    def expand_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """List what patterns and directories stand for."""
        return super().expand_path(text_of(path), *args, **kwargs)

    def _place(self, path: Any) -> _Place:
        rest = self._strip_protocol(path)
        bucket, branch, snapshot = self._fixed
        if bucket is None and rest:
            bucket, _, rest = rest.partition("/")
        if branch is None and rest:
            branch, _, rest = rest.lstrip("/").partition("/")
            branch, at, name = branch.partition("@")
            snapshot = name if at else None
        return _Place(bucket, branch, snapshot, "/" + rest)

    def _reading(self, place: _Place) -> AbstractContextManager[_tree.Branch | _tree.View]:
        """Find the tree to read from; a view of a snapshot is open for this one use."""
        assert place.bucket is not None
        bucket = self.store.bucket(place.bucket)
        if place.snapshot is None:
            return nullcontext(bucket.branch(place.branch or ""))
        return bucket.view(f"{place.branch}@{place.snapshot}")

    def _branch(self, place: _Place, op: str) -> _tree.Branch:
        """Find the branch to change."""
        if place.bucket is None or place.branch is None:
            message = "buckets and branches are made, renamed and deleted through alknet_fs itself"
            name = place.bucket or "/"
            raise _errors.make("Unsupported", f"{op}: {message}", name, op)
        if place.snapshot is not None:
            name = f"{place.branch}@{place.snapshot}"
            raise _errors.make("ReadOnly", f"{op}: a snapshot does not change", name, op)
        return self.store.bucket(place.bucket).branch(place.branch)

    def _changes(self, place: _Place, op: str) -> Any:
        """Return what takes changes: the branch, or the batch of what becomes one commit."""
        branch = self._branch(place, op)
        group = self._group if self._intrans else getattr(self._local, "group", None)
        return branch if group is None else group.batch(place, branch)

    @property
    def _group(self) -> _Group:
        transaction: Any = self.transaction
        return transaction._group  # type: ignore[no-any-return]

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Make what this thread changes one commit of each branch."""
        if self._intrans or hasattr(self._local, "group"):
            yield
            return
        self._local.group = group = _Group()
        try:
            yield
        finally:
            del self._local.group
        group.commit()

    def _change(self, place: _Place, op: str, method: str, *args: Any, **kwargs: Any) -> None:
        """Change something at a path, and make the directories above it if they are missing."""
        target = self._changes(place, op)
        if isinstance(target, _tree.Branch):
            self._change_now(target, place, method, *args, **kwargs)
            return
        if self.auto_mkdir:
            target.makedirs(place.parent, exist_ok=True)
        getattr(target, method)(*args, **kwargs)

    def _change_now(
        self, branch: _tree.Branch, place: _Place, method: str, *args: Any, **kwargs: Any
    ) -> Any:
        change = getattr(branch, method)
        try:
            return change(*args, **kwargs)
        except FileNotFoundError:
            if not self.auto_mkdir:
                raise
        branch.makedirs(place.parent, exist_ok=True)
        return change(*args, **kwargs)

    # Reading

    def _directory(self, place: _Place) -> list[str] | None:
        """Return what the levels above the trees list; ``None`` for what is in a tree."""
        if place.bucket is None:
            return self.store.buckets()
        if place.branch is None:
            return [branch.name for branch in self.store.bucket(place.bucket).branches()]
        return None

    def info(self, path: Any, **_: Any) -> dict[str, Any]:
        """Tell what is at a path; links are followed.

        Beyond what every fsspec filesystem tells, ``hash`` is the content's BLAKE3 hash, and
        ``mode``, ``uid``, ``gid``, ``mtime``, ``islink`` and ``destination`` are as of a local one.
        """
        name = self._strip_protocol(path)
        place = self._place(name)
        if self._directory(place) is not None:
            return {"name": name, "size": 0, "type": "directory"}
        with self._reading(place) as tree:
            found = tree.lstat(place.path)
            target = tree.stat(place.path) if found.is_symlink() else found
        return _info(name, target, found)

    def ls(self, path: Any, detail: bool = True, **_: Any) -> list[Any]:
        """List a directory, sorted by name; of a file, the file itself."""
        name = self._strip_protocol(path)
        place = self._place(name)
        above = self._directory(place)
        prefix = f"{name}/" if name else ""
        if above is not None:
            names = [prefix + item for item in above]
            return [self.info(item) for item in names] if detail else names
        with self._reading(place) as tree:
            try:
                with tree.scandir(place.path) as entries:
                    if not detail:
                        return [prefix + entry.name for entry in entries]
                    return [_listed(prefix + entry.name, entry) for entry in entries]
            except NotADirectoryError:
                info = self.info(name)
                return [info] if detail else [name]

    def exists(self, path: Any, **_: Any) -> bool:
        """Tell whether something is at a path."""
        return self._is(path, "exists")

    def isfile(self, path: Any) -> bool:
        """Tell whether a regular file is at a path."""
        return self._is(path, "is_file")

    def isdir(self, path: Any) -> bool:
        """Tell whether a directory is at a path; buckets and branches are directories too."""
        return self._is(path, "is_dir")

    def islink(self, path: Any) -> bool:
        """Tell whether a symbolic link is at a path."""
        place = self._place(path)
        if place.branch is None:
            return False
        try:
            with self._reading(place) as tree:
                return tree.lstat(place.path).is_symlink()
        except _NOT_THERE:
            return False

    def lexists(self, path: Any, **_: Any) -> bool:
        """Tell whether something is at a path, be it a link that leads nowhere."""
        return self.exists(path) or self.islink(path)

    def _is(self, path: Any, what: str) -> bool:
        place = self._place(path)
        try:
            if self._directory(place) is not None:
                return what != "is_file"
            with self._reading(place) as tree:
                found: bool = getattr(tree, what)(place.path)
                return found
        except _NOT_THERE:
            return False

    def checksum(self, path: Any) -> int:
        """Return the hash of a file's content as a number."""
        digest = self.info(path).get("hash")
        return int(digest, 16) if digest else int(super().checksum(path))

    def ukey(self, path: Any) -> str:
        """Return the BLAKE3 hash of a file's content."""
        return self.info(path).get("hash") or str(super().ukey(path))

    def created(self, path: Any) -> datetime.datetime:
        """Return when an entry last changed in any way: when it was made is not kept."""
        return _time(self.info(path)["created"])

    def modified(self, path: Any) -> datetime.datetime:
        """Return when the content of a file changed."""
        return _time(self.info(path)["mtime"])

    def cat_file(
        self, path: Any, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        """Read a file, or the bytes from ``start`` to ``end``, which count as in a slice."""
        if start is None and end is None:
            place = self._in_tree(path, "read")
            with self._reading(place) as tree:
                return tree.read_bytes(place.path)
        with self._raw(path) as file:
            return _range(file, start, end)

    def cat_ranges(
        self,
        paths: list[Any],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        **_: Any,
    ) -> list[Any]:
        """Read ranges of files; each file is opened once. ``max_gap`` makes no difference."""
        if not isinstance(paths, list):
            raise TypeError("paths is not a list")
        starts = starts if isinstance(starts, list) else [starts] * len(paths)
        ends = ends if isinstance(ends, list) else [ends] * len(paths)
        if not len(paths) == len(starts) == len(ends):
            raise ValueError("paths, starts and ends differ in length")
        out: list[Any] = []
        files: dict[Any, _files.File] = {}
        try:
            for path, start, end in zip(paths, starts, ends, strict=True):
                try:
                    if path not in files:
                        files[path] = self._raw(path)
                    out.append(_range(files[path], start, end))
                except OSError as error:
                    if on_error != "return":
                        raise
                    out.append(error)
        finally:
            for file in files.values():
                file.close()
        return out

    def get_file(
        self,
        rpath: Any,
        lpath: Any = None,
        callback: Any = DEFAULT_CALLBACK,
        outfile: Any = None,
        **_: Any,
    ) -> None:
        """Copy a file to the local filesystem, or to an open file; of a directory, make one."""
        if outfile is not None:
            self._get(rpath, outfile, callback)
        elif isfilelike(lpath):
            self._get(rpath, lpath, callback)
        elif self.isdir(rpath):
            os.makedirs(lpath, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(os.path.abspath(lpath)), exist_ok=True)
            with open(lpath, "wb") as local:
                self._get(rpath, local, callback)

    def _get(self, rpath: Any, local: Any, callback: Any) -> None:
        with self._raw(rpath) as file:
            callback.set_size(file.stat().size)
            while data := file.read(_BLOCK):
                local.write(data)
                callback.relative_update(len(data))

    def _in_tree(self, path: Any, op: str) -> _Place:
        """Take a path apart that must be one in a tree."""
        place = self._place(path)
        if self._directory(place) is not None:
            raise _errors.make("IsADirectory", f"{op}: is a directory", str(path), op)
        return place

    def _raw(self, path: Any) -> _files.File:
        """Open a file for reading, without a buffer."""
        place = self._in_tree(path, "open")
        with self._reading(place) as tree:
            if isinstance(tree, _tree.Branch):
                return tree.open_file(place.path, read=True)
            return tree.open_file(place.path)

    # Open files

    def open(
        self,
        path: Any,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: Any = None,
        compression: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Open a file in any mode of the builtin ``open``; text is UTF-8 unless told otherwise."""
        binary = "b" in mode
        text: dict[str, Any] = (
            {} if binary else {k: kwargs.pop(k, None) for k in ("encoding", "errors", "newline")}
        )
        mode = mode if binary else mode.replace("t", "") + "b"
        path = self._strip_protocol(path)
        autocommit = kwargs.pop("autocommit", not self._intrans)
        file: Any = self._open(path, mode, block_size, autocommit, cache_options, **kwargs)
        lowest = file
        try:
            codec = get_compression(path, compression)
            if codec is not None:
                file = _Compressed(compr[codec](file, mode=mode[0]), file, mode)
            if not binary:
                text["encoding"] = text["encoding"] or "utf-8"
                file = AlkTextFile(file, **text)
        except BaseException:
            file.abort()
            raise
        if isinstance(lowest, _Staged):
            lowest.outermost = file
        return file

    def _open(
        self,
        path: Any,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: Any = None,
        **_: Any,
    ) -> Any:
        letter, plus, _binary = _tree._parse_mode(mode)
        if letter == "r" and not plus:
            return AlkReader(self, path, self._raw(path), mode)
        place = self._place(path)
        branch = self._branch(place, "open")
        if self._intrans and not autocommit:
            return self._stage(place, path, mode)
        flags: dict[str, Any] = dict(_tree._FLAGS[letter])
        if plus:
            flags |= {"read": True, "write": True}
        if letter == "r":
            raw = branch.open_file(place.path, **flags)
        else:
            raw = self._change_now(branch, place, "open_file", place.path, **flags)
        if letter == "a":
            raw.seek(0, 2)
        cls = AlkRandom if plus else AlkWriter
        return cls(self, path, raw, mode, deferred=not autocommit)

    def _stage(self, place: _Place, path: Any, mode: str) -> _Staged:
        """Open a file that becomes part of the transaction when it is closed."""
        content = b""
        if "r" in mode or "a" in mode:
            self._group.check_unchanged(place)
            try:
                content = self.cat_file(path)
            except FileNotFoundError:
                if "r" in mode:
                    raise
        elif "x" in mode and self.exists(path):
            raise _errors.make("AlreadyExists", "open: the path exists", place.path, "open")
        staged = _Staged(self, path, mode, content)
        transaction: Any = self.transaction
        transaction.files.append(staged)
        return staged

    # Changes

    def pipe_file(self, path: Any, value: Any, mode: str = "overwrite", **_: Any) -> None:
        """Write a whole file in one commit; with ``mode="create"`` it must not exist."""
        place = self._place(path)
        replace = mode != "create"
        self._change(place, "write", "write_bytes", place.path, value, replace=replace)

    def pipe(self, path: Any, value: Any = None, **kwargs: Any) -> None:
        """Write a file, or all files of a dict of paths and values in one commit of each branch."""
        if not isinstance(path, dict):
            super().pipe(path, value, **kwargs)
            return
        with self._together():
            super().pipe(path, **kwargs)

    def put_file(
        self,
        lpath: Any,
        rpath: Any,
        callback: Any = DEFAULT_CALLBACK,
        mode: str = "overwrite",
        **_: Any,
    ) -> None:
        """Copy a file from the local filesystem in one commit; of a directory, make one."""
        if os.path.isdir(lpath):
            self.makedirs(rpath, exist_ok=True)
            return
        with open(lpath, "rb", buffering=0) as local:
            callback.set_size(os.fstat(local.fileno()).st_size)
            with self.open(rpath, "xb" if mode == "create" else "wb") as file:
                while data := local.read(_BLOCK):
                    file.write(data)
                    callback.relative_update(len(data))

    def cp_file(self, path1: Any, path2: Any, **_: Any) -> None:
        """Copy a file, which costs no space; of a directory, make one."""
        if self.isdir(path1):
            self.makedirs(path2, exist_ok=True)
            return
        source, target = self._place(path1), self._place(path2)
        if source.tree != target.tree:
            self._branch(target, "copy")
            with self._raw(path1) as from_, self.open(path2, "wb") as to:
                shutil.copyfileobj(from_, to, _BLOCK)
            return
        if not self.exists(path1):
            raise _errors.make("NotFound", "copy: no such file", source.path, "copy")
        self._change(target, "copy", "copy", source.path, target.path)

    def copy(self, path1: Any, path2: Any, *args: Any, **kwargs: Any) -> None:
        """Copy files, all in one commit; between two branches, a commit each."""
        with self._together():
            super().copy(path1, path2, *args, **kwargs)

    def mv(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Rename a file or directory, or move several; one commit in any case.

        Between two branches it is a copy and then a removal.
        """
        single = isinstance(path1, str) and isinstance(path2, str) and not has_magic(path1)
        if single and not path1.endswith("/") and maxdepth is None:
            source, target = self._place(path1), self._place(path2)
            if path2.endswith("/") or self.isdir(path2):
                name = source.path.rpartition("/")[2]
                target = target._replace(path=f"{target.path.rstrip('/')}/{name}")
            if source.tree == target.tree:
                if source.path != target.path:
                    self._change(target, "rename", "rename", source.path, target.path)
                return
        ends = [end if isinstance(end, list) else [end] for end in (path1, path2)]
        if len({self._place(path).tree for end in ends for path in end}) == 1:
            with self._together():
                super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **kwargs)
        else:
            super().copy(path1, path2, recursive=recursive, maxdepth=maxdepth, on_error="raise")
            self.rm(path1, recursive=recursive, maxdepth=maxdepth)

    def rm_file(self, path: Any) -> None:
        """Remove a file, a link or an empty directory."""
        self._remove(path, recursive=False)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files, and with ``recursive`` directories, in one commit of each branch."""
        with self._together():
            if maxdepth is not None:
                super().rm(path, recursive=recursive, maxdepth=maxdepth)
                return
            paths = path if isinstance(path, list) else [path]
            # A name with a bracket is a name before it is a pattern.
            found = {p for p in map(self._strip_protocol, paths) if self.lexists(p)}
            patterns = [p for p in map(self._strip_protocol, paths) if p not in found]
            if patterns:
                found |= set(self.expand_path(patterns))
            gone: tuple[str, ...] = ()
            for item in sorted(found):
                if item.startswith(gone):
                    continue
                if self._remove(item, recursive=recursive, files_only=True):
                    gone += (f"{item}/",)

    def _remove(self, path: Any, *, recursive: bool, files_only: bool = False) -> bool:
        """Remove what is at a path; tell whether it was a whole tree."""
        place = self._place(path)
        changes = self._changes(place, "remove")
        with self._reading(place) as tree:
            is_dir = tree.lstat(place.path).is_dir()
        if is_dir and recursive:
            changes.rmtree(place.path)
        elif is_dir and files_only:
            message = "remove: is a directory; give recursive=True"
            raise _errors.make("IsADirectory", message, place.path, "remove")
        elif is_dir:
            changes.rmdir(place.path)
        else:
            changes.remove(place.path)
        return is_dir

    def mkdir(self, path: Any, create_parents: bool = True, **_: Any) -> None:
        """Make a directory, with those above it unless ``create_parents`` is false."""
        place = self._place(path)
        if self.exists(path):
            raise _errors.make("AlreadyExists", "mkdir: the path exists", place.path, "mkdir")
        changes = self._changes(place, "mkdir")
        if create_parents:
            changes.makedirs(place.path)
        else:
            changes.mkdir(place.path)

    def makedirs(self, path: Any, exist_ok: bool = False) -> None:
        """Make a directory and those above it that are missing."""
        place = self._place(path)
        if place.path == "/" and self.exists(path):
            if not exist_ok:
                raise _errors.make("AlreadyExists", "mkdir: the path exists", str(path), "mkdir")
            return
        self._changes(place, "mkdir").makedirs(place.path, exist_ok=exist_ok)

    def rmdir(self, path: Any) -> None:
        """Remove an empty directory."""
        place = self._place(path)
        self._changes(place, "rmdir").rmdir(place.path)

    def touch(self, path: Any, truncate: bool = True, **_: Any) -> None:
        """Make a file empty, or with ``truncate=False`` set its time to now."""
        if truncate or not self.exists(path):
            self.pipe_file(path, b"")
        else:
            place = self._place(path)
            self._changes(place, "touch").set_attrs(place.path, mtime_ns=time.time_ns())

    def invalidate_cache(self, path: Any = None) -> None:
        """Do nothing: nothing is cached."""


class _Group:
    """Changes that become one commit of each branch, or of the only one there may be."""

    def __init__(self, *, one_branch: bool = False) -> None:
        self._one_branch = one_branch
        self._batches: dict[Any, _tree.Batch] = {}
        self._changed: set[str] = set()

    def batch(self, place: _Place, branch: _tree.Branch) -> _tree.Batch:
        batch = self._batches.get(place.tree)
        if batch is None:
            if self._one_branch and self._batches:
                message = "a transaction changes one branch"
                raise _errors.make("Unsupported", message, branch.name, "transaction")
            batch = self._batches[place.tree] = branch.batch()
        self._changed.add(place.path)
        return batch

    def check_unchanged(self, place: _Place) -> None:
        """Refuse to begin with a content that the changes so far may have changed."""
        above = (place.path[: len(path) + 1] == f"{path}/" for path in self._changed)
        if place.path in self._changed or any(above):
            message = "open: the transaction changed the file already; it can only be replaced"
            raise _errors.make("Unsupported", message, place.path, "open")

    def commit(self) -> None:
        for batch in self._batches.values():
            batch.commit()


class AlkTransaction(Transaction):  # type: ignore[misc]
    """What ``fs.transaction`` is: all changes of one branch in one commit, or none of them.

    It takes in what all threads change through the filesystem meanwhile. What is read inside of it
    is the branch as it was before. A file that is written in it is held in memory until it is
    closed; one that is still open at the end is closed.
    """

    def __init__(self, fs: AlkFileSystem, **kwargs: Any) -> None:
        super().__init__(fs, **kwargs)
        self._group = _Group(one_branch=True)

    def start(self) -> None:
        """Begin."""
        super().start()
        self._group = _Group(one_branch=True)

    def complete(self, commit: bool = True) -> None:
        """Commit everything, or drop it."""
        try:
            if commit:
                for file in self.files:
                    file.outermost.commit()
                self._group.commit()
        finally:
            # What is committed is closed, and not changed by this.
            super().complete(commit=False)


AlkFileSystem.transaction_type = AlkTransaction


class _Opened:
    """What the open files have beyond those of the package."""

    raw: _files.File

    def __init__(
        self, fs: AlkFileSystem, path: str, raw: _files.File, mode: str, *, deferred: bool = False
    ) -> None:
        raw.mode = mode
        super().__init__(raw, _files.DEFAULT_BUFFER_SIZE)  # type: ignore[call-arg]
        self.fs = fs
        self.path = path
        self._deferred = deferred

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.raw.stat().size

    def close(self) -> None:
        """Close the file; one opened with ``autocommit=False`` waits for :meth:`commit`."""
        if self._deferred and not self.raw.closed:
            self.flush()  # type: ignore[attr-defined]
        else:
            super().close()  # type: ignore[misc]

    def commit(self) -> None:
        """Close the file and commit what was written."""
        self._deferred = False
        self.close()

    def discard(self) -> None:
        """Close the file and throw away what was written."""
        self.raw.abort()


class AlkReader(_Opened, _files.BufferedReader):  # type: ignore[misc]
    """A file opened for reading. It can be pickled, and is opened again where it arrives."""

    def __reduce__(self) -> Any:
        return _reopen, (self.fs, self.path, self.raw.mode, self.tell())


class AlkWriter(_Opened, _files.BufferedWriter):  # type: ignore[misc]
    """A file opened for writing."""


class AlkRandom(_Opened, _files.BufferedRandom):  # type: ignore[misc]
    """A file opened for reading and writing."""


class AlkTextFile(_files.TextFile):
    """A file opened as text."""

    def commit(self) -> None:
        """Close the file and commit what was written."""
        self.close()
        below: Any = self.buffer
        below.commit()

    def discard(self) -> None:
        """Close the file and throw away what was written."""
        self.abort()


def _reopen(fs: AlkFileSystem, path: str, mode: str, position: int) -> Any:
    file = fs.open(path, mode)
    file.seek(position)
    return file


class _Staged(io.BytesIO):
    """A file that is written in a transaction."""

    _writable = True

    def __init__(self, fs: AlkFileSystem, path: str, mode: str, content: bytes) -> None:
        super().__init__(content)
        self.fs = fs
        self.path = path
        self.mode = mode  # type: ignore[misc]
        self.outermost: Any = self
        if "a" in mode:
            self.seek(0, io.SEEK_END)

    @property
    def raw(self) -> _Staged:
        return self

    @property
    def size(self) -> int:
        return len(self.getbuffer())

    def write(self, data: Any, /) -> int:
        if "a" in self.mode:
            self.seek(0, io.SEEK_END)
        return super().write(data)

    def close(self) -> None:
        if not self.closed:
            data = self.getvalue()
            super().close()
            self.fs.pipe_file(self.path, data, "create" if "x" in self.mode else "overwrite")

    commit = close

    def abort(self) -> None:
        super().close()

    discard = abort

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        (self.close if kind is None else self.abort)()

    def __del__(self) -> None:
        self.abort()


class _Compressed(io.BufferedIOBase):
    """A compressor and the file below it, which it closes but the codecs of fsspec do not."""

    def __init__(self, codec: Any, file: Any, mode: str) -> None:
        self._codec = codec
        self._file = file
        self._open = True
        self.raw = self
        self.mode = mode
        self._writable = "r" not in mode

    def readable(self) -> bool:
        return not self._writable

    def writable(self) -> bool:
        return self._writable

    def seekable(self) -> bool:
        return bool(self._codec.seekable())

    def read(self, size: int | None = -1, /) -> bytes:
        return self._codec.read(-1 if size is None else size)  # type: ignore[no-any-return]

    def read1(self, size: int = -1, /) -> bytes:
        return getattr(self._codec, "read1", self._codec.read)(size)  # type: ignore[no-any-return]

    def readline(self, size: int | None = -1, /) -> bytes:
        return self._codec.readline(-1 if size is None else size)  # type: ignore[no-any-return]

    def write(self, data: Any, /) -> int:
        return self._codec.write(data)  # type: ignore[no-any-return]

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._codec.seek(offset, whence)  # type: ignore[no-any-return]

    def tell(self) -> int:
        return self._codec.tell()  # type: ignore[no-any-return]

    def flush(self) -> None:
        if self._open and self._writable:
            self._codec.flush()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._codec.close()
            self._file.close()
            super().close()

    def commit(self) -> None:
        self.close()
        self._file.commit()

    def abort(self) -> None:
        self._open = False
        self._file.abort()
        super().close()

    discard = abort

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        (self.close if kind is None else self.abort)()

    def __del__(self) -> None:
        if self._open:
            self.abort()


_TYPES = {"file": "file", "dir": "directory"}


def _info(name: str, entry: Entry, found: Entry) -> dict[str, Any]:
    """Describe an entry; ``found`` is the link that leads to it, or itself."""
    info: dict[str, Any] = {
        "name": name,
        "size": entry.size if entry.is_file() else 0,
        "type": _TYPES.get(entry.kind, "other"),
        "mode": entry.st_mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime": entry.st_mtime,
        "created": entry.st_ctime,
        "islink": found.is_symlink(),
    }
    if entry.is_file():
        info["hash"] = entry.hash
    if found.is_symlink():
        info["destination"] = found.target
    return info


def _listed(name: str, entry: DirEntry) -> dict[str, Any]:
    """Describe an entry of a listing: a link as what it leads to only if that is a file."""
    found = entry.stat(follow_symlinks=False)
    if found.is_symlink():
        # One that leads nowhere, or in a circle, is what it is.
        with suppress(OSError):
            target = entry.stat()
            return _info(name, target if target.is_file() else found, found)
    return _info(name, found, found)


def _range(file: _files.File, start: int | None, end: int | None) -> bytes:
    first, stop, _ = slice(start, end).indices(file.stat().size)
    return file.pread(max(0, stop - first), first)


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, tz=datetime.timezone.utc)
