from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

import alknet_fs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# The libraries it drives are installed there only.
collect_ignore = [] if sys.version_info >= (3, 11) else ["test_integrations.py"]


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[alknet_fs.Store]:
    if request.param == "disk":
        store = alknet_fs.open(tmp_path / "store", author="tester")
    else:
        store = alknet_fs.memory(author="tester")
    with store:
        yield store


@pytest.fixture
def branch(store: alknet_fs.Store) -> alknet_fs.Branch:
    return store.branch()
