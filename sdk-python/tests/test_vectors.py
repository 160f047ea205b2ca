"""Replays tests/vectors of the repository; its README.md says what the steps mean."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import blake3
import pytest

import alknet_fs

if TYPE_CHECKING:
    from collections.abc import Callable

VECTORS = Path(__file__).parents[2] / "tests" / "vectors"

Tree = alknet_fs.Branch | alknet_fs.View


def digest(data: bytes) -> str:
    return blake3.blake3(data).hexdigest()


def to_bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if "repeat" in value:
        return to_bytes(value["repeat"]) * int(value["times"])
    if "concat" in value:
        return b"".join(to_bytes(part) for part in value["concat"])
    return bytes.fromhex(value["hex"])


def to_path(value: Any) -> str | bytes:
    data = to_bytes(value)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


class Args:
    """The arguments of a step, each of which has to be used."""

    def __init__(self, step: dict[str, Any]) -> None:
        self._step = step
        self._unused = set(step) - {"op", "expect"}

    def __contains__(self, key: str) -> bool:
        return key in self._step

    def get(self, key: str, default: Any = None) -> Any:
        self._unused.discard(key)
        return self._step.get(key, default)

    def need(self, key: str) -> Any:
        self._unused.discard(key)
        return self._step[key]

    def text(self, key: str) -> str:
        return to_bytes(self.need(key)).decode()

    def path(self, key: str = "path") -> str | bytes:
        return to_path(self.need(key))

    def data(self) -> bytes:
        return to_bytes(self.need("data"))

    def number(self, key: str) -> int:
        return int(self.need(key))

    def attrs(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, name, base in (
            ("mode", "mode", 8),
            ("uid", "uid", 10),
            ("gid", "gid", 10),
            ("mtime", "mtime_ns", 10),
        ):
            if key in self:
                found[name] = int(str(self.need(key)), base)
        return found

    def filter(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key in ("under", "directly_in"):
            if key in self:
                found[key] = self.path(key)
        if "globs" in self:
            found["glob"] = [to_bytes(glob).decode() for glob in self.need("globs")]
        return found

    def cancel(self) -> alknet_fs.Cancel:
        cancel = alknet_fs.Cancel()
        if self.get("cancelled", False):
            cancel.cancel()
        return cancel

    def check_used(self) -> None:
        assert not self._unused, f"unknown arguments: {self._unused}"


def entry(found: alknet_fs.Entry) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "size": found.size,
        "hash": found.hash,
        "target": found.target,
        "mode": f"{found.mode:o}",
        "uid": found.uid,
        "gid": found.gid,
        "mtime": str(found.mtime_ns),
        "ctime": str(found.ctime_ns),
    }


def closed(found: alknet_fs.Closed | None) -> dict[str, Any] | None:
    return found and {"path": found.path, "hash": found.hash, "size": found.size}


def info(found: alknet_fs.BranchInfo) -> dict[str, Any]:
    return {
        "name": found.name,
        "parent": found.parent,
        "live": found.live,
        "snapshots": found.snapshots,
    }


def event(found: alknet_fs.Event) -> dict[str, Any]:
    return {
        "op": found.op,
        "path": found.path,
        "from": found.from_path,
        "kind": found.kind,
        "old": found.old,
        "new": found.new,
        "size": found.size,
        "name": found.name,
        "branch": found.branch,
        "bucket": found.bucket,
        "author": found.author,
    }


def fields(found: object, *names: str) -> dict[str, Any]:
    return {name: getattr(found, name) for name in names}


def walk(tree: Tree, path: str | bytes = "/") -> list[tuple[str, alknet_fs.Entry]]:
    return [(item.path, item.stat(follow_symlinks=False)) for item in tree.find(path)]


def host_tree(root: Path, folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in sorted(folder.iterdir(), key=lambda path: os.fsencode(path.name)):
        mode = stat.S_IMODE(path.lstat().st_mode)
        row: dict[str, Any] = {"mode": f"{mode:o}", "path": f"/{path.relative_to(root)}"}
        if path.is_symlink():
            found.append({**row, "kind": "symlink", "target": os.readlink(path)})
        elif path.is_dir():
            found.append({**row, "kind": "dir"})
            found += host_tree(root, path)
        else:
            found.append({**row, "kind": "file", "data": path.read_bytes()})
    return found


def matches(result: Any, value: Any) -> bool:
    found: type[Any] = result.__class__
    stated: type[Any] = value.__class__
    if stated is list:
        return found is list and len(result) == len(value) and all(map(matches, result, value))
    if stated is dict and found is dict:
        return all(matches(result.get(key), want) for key, want in value.items())
    if found is bytes or found is str:
        data = result if found is bytes else result.encode()
        return value is not None and to_bytes(value) == data
    if found is int:
        return stated in (int, str) and result == int(value)
    return found is stated and result == value


class Runner:
    """One store, and the handles that the steps of a vector keep."""

    def __init__(self, folder: Path, disk: bool) -> None:
        self.folder = folder
        self.disk = disk
        self.store = self.open_store()
        self.branches: dict[str, alknet_fs.Branch] = {}
        self.views: dict[str, alknet_fs.View] = {}
        self.files: dict[str, alknet_fs.File] = {}
        self.batches: dict[str, alknet_fs.Batch] = {}
        self.sessions: dict[str, alknet_fs.Session] = {}
        self.numbers: dict[str, int] = {}
        self.readers: dict[str, alknet_fs.Reader] = {}
        self.watches: dict[str, alknet_fs.Watch] = {}

    def open_store(self) -> alknet_fs.Store:
        if self.disk:
            return alknet_fs.open(self.folder / "store", author="tester")
        return alknet_fs.memory(author="tester")

    def reopen(self) -> None:
        if self.disk:
            self.let_go()
            self.store.close()
            self.store = self.open_store()

    def let_go(self) -> None:
        for file in self.files.values():
            file.abort()
        for session in self.sessions.values():
            if not session.closed:
                session.abort()

    def bucket(self, args: Args) -> alknet_fs.Bucket:
        return self.store.bucket(args.get("bucket", "default"))

    def named(self, name: str) -> Tree:
        bucket, _, tree = name.rpartition(":")
        found = self.store.bucket(bucket or "default")
        return found.view(tree) if "@" in tree else found.branch(tree)

    def branch(self, args: Args) -> alknet_fs.Branch:
        if "handle" in args:
            return self.branches[args.text("handle")]
        found = self.named(args.get("on", "main"))
        assert isinstance(found, alknet_fs.Branch)
        return found

    def tree(self, args: Args) -> Tree:
        if "view" in args:
            return self.views[args.text("view")]
        if "handle" in args:
            return self.branches[args.text("handle")]
        return self.named(args.get("on", "main"))

    def operation(self, name: str, args: Args) -> Callable[[Args], Any]:
        """Find what does a step; a batch collects by the methods of the same names."""
        if "batch" in args and name not in ("commit", "drop"):
            batch = self.batches[args.text("batch")]
            collector = Collector(batch)
            return getattr(collector, "op_" + name)  # type: ignore[no-any-return]
        return getattr(self, "op_" + name)  # type: ignore[no-any-return]

    def step(self, step: dict[str, Any]) -> None:
        args = Args(step)
        expect = step.get("expect")
        result: Any = None
        failure: alknet_fs.AlkError | None = None
        try:
            result = self.operation(step["op"], args)(args)
        except alknet_fs.AlkError as error:
            failure = error.with_traceback(None)  # Its frames keep handles alive.
        if failure is not None:
            assert expect is not None, failure
            assert "error" in expect, failure
            want = expect["error"]
            assert (failure.kind, failure.code) == (want["kind"], want["code"])
            assert failure.errno == getattr(errno, failure.code, want["errno"])
            assert want.get("mentions", "") in str(failure)
            return
        args.check_used()
        if expect is None:
            return
        assert "ok" in expect, f"succeeded with {result!r}"
        assert matches(result, expect["ok"]), f"{result!r} is not {expect['ok']!r}"

    def check_final(self, final: dict[str, Any]) -> None:
        for name, want in final.items():
            tree = self.named(name)
            lines: list[str] = []
            listing: list[dict[str, Any]] = []
            for path, found in walk(tree):
                row: dict[str, Any] = {
                    "kind": found.kind,
                    "mode": f"{found.mode:o}",
                    "path": path,
                }
                what = "-"
                if found.is_file():
                    row["data"] = tree.read_bytes(path)
                    what = digest(row["data"])
                elif found.target is not None:
                    row["target"] = found.target
                    what = digest(found.target.encode())
                listing.append(row)
                lines.append(f"{found.kind} {found.mode:o} {what} {path}\n")
            assert matches(listing, want["tree"]), (name, listing)
            assert tree.tree_hash() == want["hash"]
            assert digest("".join(lines).encode()) == want["hash"]

    # Store and buckets.

    def op_create_bucket(self, args: Args) -> None:
        self.store.create_bucket(args.text("name"))

    def op_rename_bucket(self, args: Args) -> None:
        self.store.rename_bucket(args.text("name"), args.text("to"))

    def op_delete_bucket(self, args: Args) -> None:
        self.store.delete_bucket(args.text("name"))

    def op_buckets(self, args: Args) -> list[str]:
        return self.store.buckets()

    def op_open_bucket(self, args: Args) -> dict[str, str]:
        return {"name": self.store.bucket(args.text("name")).name}

    def op_reopen(self, args: Args) -> None:
        self.reopen()

    def op_drop(self, args: Args) -> None:
        if "file" in args:
            with pytest.warns(ResourceWarning):
                del self.files[args.text("file")]
        elif "session" in args:
            with pytest.warns(ResourceWarning):
                del self.sessions[args.text("session")]
        elif "view" in args:
            del self.views[args.text("view")]
        elif "batch" in args:
            del self.batches[args.text("batch")]
        else:
            del self.readers[args.text("reader")]

    def op_watch(self, args: Args) -> None:
        after = args.get("after")
        if isinstance(after, dict):
            after = self.watches[to_bytes(after["watcher"]).decode()].cursor  # pyright: ignore
        elif after == "start":
            after = 0
        bucket = args.get("bucket", "default")
        found = self.store.watch(
            bucket=bucket, branch=args.get("branch"), after=after, **args.filter()
        )
        self.watches[args.text("as")] = found

    def op_next(self, args: Args) -> dict[str, Any] | None:
        found = self.watches[args.text("watcher")].next(0)
        return found and event(found)

    def op_log(self, args: Args) -> list[dict[str, Any]]:
        limit, branch = args.number("limit"), args.get("branch")
        found = self.bucket(args).log(limit, branch=branch, **args.filter())
        return [event(item) for item in found]

    def op_prune_events(self, args: Args) -> int:
        before = args.get("not_before")
        return self.bucket(args).prune_events(
            at_most=args.get("at_most"), before_ns=None if before is None else int(before)
        )

    # Upkeep.

    def op_stats(self, args: Args) -> dict[str, int]:
        names = ("buckets", "branches", "snapshots", "sessions", "contents", "content_bytes")
        return fields(self.store.stats(), *names)

    def op_sharing(self, args: Args) -> dict[str, Any]:
        trees = [to_bytes(tree).decode() for tree in args.need("trees")]
        found = self.bucket(args).sharing(trees, cancel=args.cancel())
        names = ("tree", "files", "bytes", "shared_files", "stored", "shared")
        each = [fields(tree, *names) for tree in found.trees]
        return {"trees": each, **fields(found, "stored", "apart")}

    def op_fsck(self, args: Args) -> dict[str, Any]:
        found = self.store.fsck(fast=args.get("fast", False), cancel=args.cancel())
        return fields(found, "entries", "contents", "bytes", "problems")

    def op_gc(self, args: Args) -> dict[str, Any]:
        found = self.store.gc(
            grace=float(args.get("grace", 3600)),
            keep_events=args.get("keep_events"),
            dry_run=args.get("dry_run", False),
            cancel=args.cancel(),
        )
        return fields(found, "events", "versions", "contents", "content_bytes", "waiting")

    # Branches and snapshots.

    def op_open_branch(self, args: Args) -> None:
        branch = self.branch(args)
        if "as" in args:
            self.branches[args.text("as")] = branch

    def op_branches(self, args: Args) -> list[dict[str, Any]]:
        return [info(found) for found in self.bucket(args).branches()]

    def op_info(self, args: Args) -> dict[str, Any]:
        return info(self.branch(args).info())

    def op_fork(self, args: Args) -> None:
        self.bucket(args).fork(args.text("from"), args.text("name"))

    def op_rename_branch(self, args: Args) -> None:
        self.branch(args).rename_to(args.text("name"))

    def op_delete_branch(self, args: Args) -> None:
        self.bucket(args).delete_branch(args.text("name"))

    def op_snapshot(self, args: Args) -> None:
        self.branch(args).snapshot(args.text("name"))

    def op_snapshots(self, args: Args) -> list[dict[str, str]]:
        return [{"name": found.name} for found in self.branch(args).snapshots()]

    def op_delete_snapshot(self, args: Args) -> None:
        self.branch(args).delete_snapshot(args.text("snapshot"))

    def op_restore(self, args: Args) -> None:
        self.branch(args).restore(args.text("snapshot"))

    def op_diff(self, args: Args) -> list[dict[str, Any]]:
        bucket, under = self.bucket(args), args.path("under")
        names = args.text("from"), args.text("to")
        found = bucket.diff(*names, under)
        old, new = (bucket.view(name) if "@" in name else bucket.branch(name) for name in names)
        assert bucket.diff(old, new, under) == found
        if isinstance(old, alknet_fs.Branch):
            assert old.diff(new, under) == found
        return [
            {
                "path": d.path,
                "what": d.what,
                "from": d.from_path,
                "old": d.old and entry(d.old),
                "new": d.new and entry(d.new),
            }
            for d in found
        ]

    # Reading.

    def op_view(self, args: Args) -> None:
        found = self.named(args.get("on", "main"))
        self.views[args.text("as")] = found.view() if isinstance(found, alknet_fs.Branch) else found

    def op_stat(self, args: Args) -> dict[str, Any]:
        return entry(self.tree(args).stat(args.path()))

    def op_lstat(self, args: Args) -> dict[str, Any]:
        return entry(self.tree(args).lstat(args.path()))

    def op_exists(self, args: Args) -> bool:
        tree, path = self.tree(args), args.path()
        there = tree.exists(path)
        if not path:
            # The engine refuses it. As in Python, nothing is there; the refusal is that of a stat.
            assert there is False
            tree.stat(path)
        return there

    def op_canonicalize(self, args: Args) -> str:
        return self.tree(args).realpath(args.path())

    def op_read_link(self, args: Args) -> str:
        return self.tree(args).readlink(args.path())

    def op_list(self, args: Args) -> list[dict[str, Any]]:
        entries = self.tree(args).scandir(args.path())
        return [{"name": e.name, **entry(e.stat(follow_symlinks=False))} for e in entries]

    def op_walk(self, args: Args) -> list[dict[str, Any]]:
        found = walk(self.tree(args), args.path())
        return [{"path": path, **entry(found)} for path, found in found]

    def op_glob(self, args: Args) -> list[dict[str, Any]]:
        tree = self.tree(args)
        found = tree.glob(args.text("pattern"), args.path())
        return [{"path": path, **entry(tree.lstat(path))} for path in found]

    def keep_reader(self, args: Args, reader: alknet_fs.Reader) -> dict[str, Any]:
        self.readers[args.text("as")] = reader
        return fields(reader, "size", "hash")

    def op_open_reader(self, args: Args) -> dict[str, Any]:
        return self.keep_reader(args, self.tree(args).open_reader(args.path()))

    def op_open_content(self, args: Args) -> dict[str, Any]:
        return self.keep_reader(args, self.tree(args).open_content(args.text("hash")))

    def op_read_at(self, args: Args) -> bytes:
        of: alknet_fs.Reader | alknet_fs.Session
        of = self.readers[args.text("reader")] if "reader" in args else self.session(args)
        return of.pread(args.number("len"), args.number("offset"))

    def op_read(self, args: Args) -> bytes:
        return self.tree(args).read_bytes(args.path())

    def op_verify(self, args: Args) -> None:
        self.tree(args).verify(args.path())

    def op_tree_hash(self, args: Args) -> str:
        return self.tree(args).tree_hash()

    # Changing.

    def op_write(self, args: Args) -> None:
        self.branch(args).write_bytes(args.path(), args.data())

    def op_put(self, args: Args) -> None:
        put = args.get("put", "create_or_replace")
        self.branch(args).write_bytes(
            args.path(),
            args.data(),
            create=put != "replace_existing",
            replace=put != "create_new",
            **args.attrs(),
        )

    def op_mkdir(self, args: Args) -> None:
        self.branch(args).mkdir(args.path(), **args.attrs())

    def op_mkdir_all(self, args: Args) -> None:
        self.branch(args).makedirs(args.path(), exist_ok=True)

    def op_symlink(self, args: Args) -> None:
        self.branch(args).symlink(args.text("target"), args.path())

    def op_hard_link(self, args: Args) -> None:
        self.branch(args).link(args.path("target"), args.path())

    def op_remove(self, args: Args) -> None:
        self.branch(args).remove(args.path())

    def op_remove_dir(self, args: Args) -> None:
        self.branch(args).rmdir(args.path())

    def op_remove_all(self, args: Args) -> int:
        return self.branch(args).rmtree(args.path())

    def op_rename(self, args: Args) -> None:
        self.branch(args).rename(args.path("from"), args.path("to"))

    def op_rename_new(self, args: Args) -> None:
        self.branch(args).rename(args.path("from"), args.path("to"), replace=False)

    def op_copy(self, args: Args) -> int:
        return self.branch(args).copy(args.path("from"), args.path("to"))

    def op_set_attrs(self, args: Args) -> None:
        follow = args.get("follow", True)
        self.branch(args).set_attrs(args.path(), follow_symlinks=follow, **args.attrs())

    def op_batch(self, args: Args) -> None:
        self.batches[args.text("as")] = self.branch(args).batch()

    def op_commit(self, args: Args) -> None:
        self.batches.pop(args.text("batch")).commit()

    # Write sessions.

    def session(self, args: Args) -> alknet_fs.Session:
        return self.sessions[args.text("session")]

    def number(self, args: Args) -> int:
        return args.number("id") if "id" in args else self.numbers[args.text("session")]

    def keep_session(self, name: str, session: alknet_fs.Session) -> None:
        self.sessions[name] = session
        self.numbers[name] = session.id

    def op_open(self, args: Args) -> None:
        found = self.branch(args).open_session(
            args.path(),
            create=args.get("create", True),
            create_new=args.get("create_new", False),
            truncate=args.get("truncate", False),
            exclusive=args.get("exclusive", False),
            owner=args.get("owner"),
            **args.attrs(),
        )
        self.keep_session(args.text("as"), found)

    def op_write_at(self, args: Args) -> None:
        self.session(args).pwrite(args.data(), args.number("offset"))

    def op_append(self, args: Args) -> int:
        return self.session(args).append(args.data())

    def op_truncate(self, args: Args) -> None:
        self.session(args).truncate(args.number("size"))

    def op_size(self, args: Args) -> int:
        return self.session(args).size

    def op_session_path(self, args: Args) -> str:
        return self.session(args).path

    def op_sync(self, args: Args) -> None:
        self.session(args).sync()

    def op_close(self, args: Args) -> dict[str, Any] | None:
        return closed(self.session(args).close(**args.attrs()))

    def op_abort(self, args: Args) -> None:
        self.session(args).abort()

    def op_detach(self, args: Args) -> None:
        self.sessions.pop(args.text("session")).detach()

    def op_resume(self, args: Args) -> None:
        found = self.store.resume_session(self.number(args))
        self.keep_session(args.text("as"), found)

    def op_sessions(self, args: Args) -> list[dict[str, Any]]:
        names = ("bucket", "branch", "path", "owner", "exclusive", "alive")
        return [fields(found, *names) for found in self.store.sessions()]

    def op_abort_session(self, args: Args) -> None:
        self.store.abort_session(self.number(args), force=args.get("force", False))

    # Open files.

    def op_open_file(self, args: Args) -> None:
        if "view" in args:
            file = self.views[args.text("view")].open_file(args.path())
        else:
            flags = ("read", "write", "append", "create", "create_new", "truncate")
            file = self.branch(args).open_file(
                args.path(), **{key: args.get(key, False) for key in flags}, **args.attrs()
            )
        self.files[args.text("as")] = file

    def file(self, args: Args) -> alknet_fs.File:
        return self.files[args.text("file")]

    def op_file_read(self, args: Args) -> bytes:
        file, size = self.file(args), args.number("len")
        return file.pread(size, args.number("offset")) if "offset" in args else file.read(size)

    def op_file_write(self, args: Args) -> None:
        file, data = self.file(args), args.data()
        if "offset" in args:
            file.pwrite(data, args.number("offset"))
        else:
            file.write(data)

    def op_file_position(self, args: Args) -> int:
        return self.file(args).tell()

    def op_file_seek(self, args: Args) -> None:
        self.file(args).seek(args.number("position"))

    def op_file_truncate(self, args: Args) -> None:
        self.file(args).truncate(args.number("size"))

    def op_file_stat(self, args: Args) -> dict[str, Any]:
        return entry(self.file(args).stat())

    def op_file_set_attrs(self, args: Args) -> None:
        self.file(args).set_attrs(**args.attrs())

    def op_file_sync(self, args: Args) -> None:
        self.file(args).sync()

    def op_file_close(self, args: Args) -> dict[str, Any] | None:
        return closed(self.file(args).commit())

    def op_file_abort(self, args: Args) -> None:
        self.file(args).abort()

    # Directories of the operating system.

    def op_host_put(self, args: Args) -> None:
        root = self.folder / args.text("dir")
        root.mkdir(exist_ok=True)
        for item in args.need("entries"):
            path = root / item["path"][1:]
            if item["kind"] == "symlink":
                path.symlink_to(item["target"])
                continue
            if item["kind"] == "dir":
                path.mkdir()
            else:
                path.write_bytes(to_bytes(item["data"]))
            path.chmod(int(item["mode"], 8))

    def op_host_remove(self, args: Args) -> None:
        (self.folder / args.text("dir") / args.text("path")[1:]).unlink()

    def op_host_tree(self, args: Args) -> list[dict[str, Any]]:
        root = self.folder / args.text("dir")
        return host_tree(root, root)

    def op_import(self, args: Args) -> dict[str, Any]:
        source = self.folder / args.text("dir")
        if "path" in args:
            source /= args.text("path")[1:]
        found = self.branch(args).import_(
            source,
            args.path("to"),
            exclude=[to_bytes(pattern).decode() for pattern in args.get("exclude", [])],
            delete=args.get("delete", False),
            cancel=args.cancel(),
        )
        names = ("files", "dirs", "symlinks", "bytes", "unchanged", "removed")
        return {**fields(found, *names), "skipped": len(found.skipped)}

    def op_export(self, args: Args) -> dict[str, Any]:
        found = self.tree(args).export(
            args.path(),
            self.folder / args.text("dir"),
            overwrite=args.get("overwrite", False),
            sync=args.get("sync", False),
            cancel=args.cancel(),
        )
        return fields(found, "files", "dirs", "symlinks", "bytes")

    def op_create_store(self, args: Args) -> None:
        alknet_fs.create(self.folder / args.text("dir")).close()

    def op_open_store(self, args: Args) -> None:
        alknet_fs.open(self.folder / args.text("dir"), create=False).close()


class Collector:
    """What the steps that change do to a batch."""

    def __init__(self, batch: alknet_fs.Batch) -> None:
        self.batch = batch

    def op_write(self, args: Args) -> None:
        self.batch.write_bytes(args.path(), args.data())

    def op_put(self, args: Args) -> None:
        put = args.get("put", "create_or_replace")
        self.batch.write_bytes(
            args.path(),
            args.data(),
            create=put != "replace_existing",
            replace=put != "create_new",
            **args.attrs(),
        )

    def op_mkdir(self, args: Args) -> None:
        self.batch.mkdir(args.path(), **args.attrs())

    def op_mkdir_all(self, args: Args) -> None:
        self.batch.makedirs(args.path(), exist_ok=True)

    def op_symlink(self, args: Args) -> None:
        self.batch.symlink(args.text("target"), args.path(), **args.attrs())

    def op_remove(self, args: Args) -> None:
        self.batch.remove(args.path())

    def op_remove_dir(self, args: Args) -> None:
        self.batch.rmdir(args.path())

    def op_remove_all(self, args: Args) -> None:
        self.batch.rmtree(args.path())

    def op_rename(self, args: Args) -> None:
        self.batch.rename(args.path("from"), args.path("to"))

    def op_copy(self, args: Args) -> None:
        self.batch.copy(args.path("from"), args.path("to"))

    def op_set_attrs(self, args: Args) -> None:
        follow = args.get("follow", True)
        self.batch.set_attrs(args.path(), follow_symlinks=follow, **args.attrs())


def load() -> list[Any]:
    found: list[Any] = []
    for path in sorted(VECTORS.glob("*.json")):
        file = json.loads(path.read_text("utf-8"))
        assert file["format"] == 1
        for vector in file["vectors"]:
            found.append(pytest.param(vector, id=f"{file['topic']}:{vector['name']}"))
    assert len(found) > 300
    return found


@pytest.mark.parametrize("disk", [True, False], ids=["disk", "memory"])
@pytest.mark.parametrize("vector", load())
def test_vector(vector: dict[str, Any], disk: bool, tmp_path: Path) -> None:
    runner = Runner(tmp_path, disk)
    for number, step in enumerate(vector["steps"], 1):
        try:
            runner.step(step)
        except BaseException as error:
            error.args = (f"step {number}, {step['op']}: {error}",)
            raise
    runner.check_final(vector["final"])
    if disk:
        runner.reopen()
        runner.check_final(vector["final"])
        runner.store.close()
        shutil.rmtree(tmp_path)
    else:
        runner.let_go()
