"""Processes made by ``os.fork()``, which share what their parent had open."""

from __future__ import annotations

import multiprocessing
import os
import threading
from typing import TYPE_CHECKING

import pytest

import alknet_fs

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]

CHILDREN = 4
WRITES = 50


def _write(branch: alknet_fs.Branch, name: str) -> None:
    for n in range(WRITES):
        branch.write_bytes(f"/{name}-{n}", name.encode())
        with branch.open("/log", "a") as file:
            file.write(f"{name}\n")


def _child(folder: Path, name: str) -> None:
    with alknet_fs.open(folder) as store:
        _write(store.bucket("default").branch(), name)


def test_a_parent_and_its_children_lose_no_write(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    store = alknet_fs.create(folder)
    branch = store.bucket("default").branch()
    branch.write_bytes("/log", b"")
    names = [f"child-{n}" for n in range(CHILDREN)]
    # The connections that read and write are open, and others use them while children are made.
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            branch.read_bytes("/log")

    reader = threading.Thread(target=read)
    reader.start()
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_child, args=(folder, name)) for name in names]
    for child in children:
        child.start()
    _write(branch, "parent")
    for child in children:
        child.join(60)
    over.set()
    reader.join()
    assert [child.exitcode for child in children] == [0] * CHILDREN
    lines = branch.read_text("/log").split()
    for name in ["parent", *names]:
        assert lines.count(name) == WRITES
        assert all(branch.read_text(f"/{name}-{n}") == name for n in range(WRITES))
    assert store.fsck().problems == []


def test_what_the_parent_opened_fails_in_the_child_and_lives_in_the_parent(tmp_path: Path) -> None:
    store = alknet_fs.create(tmp_path / "store")
    branch = store.bucket("default").branch()
    file = branch.open("/a", "wb")
    file.write(b"parent")
    pid = os.fork()
    if pid == 0:
        done = 1
        try:
            for call in (branch.listdir, store.buckets, lambda: branch.read_bytes("/a")):
                with pytest.raises(alknet_fs.AlkError, match=r"os\.fork"):
                    call()
            assert store.closed
            del file, branch, store
            done = 0
        finally:
            os._exit(done)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    file.close()
    assert branch.read_bytes("/a") == b"parent"
