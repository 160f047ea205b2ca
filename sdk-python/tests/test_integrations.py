# pyright: basic
"""The libraries that an fsspec filesystem is for, each writing and reading through one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dask.config
import dask.dataframe as dd
import duckdb
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
import zarr
from zarr.storage import FsspecStore

import alknet_fs
from alknet_fs.fsspec import AlkFileSystem

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> str:
    path = tmp_path / "store"
    alknet_fs.create(path).close()
    return str(path)


@pytest.fixture
def fs(store: str) -> AlkFileSystem:
    return AlkFileSystem(store)


@pytest.fixture
def frame() -> pd.DataFrame:
    rows = 10_000
    return pd.DataFrame(
        {
            "id": np.arange(rows),
            "part": np.arange(rows) % 4,
            "name": [f"name {i}" for i in range(rows)],
            "value": np.random.default_rng(1).random(rows),
        }
    )


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_pandas_csv(store: str, frame: pd.DataFrame, name: str) -> None:
    url = f"alkfs://default/main/tables/{name}"
    options = {"store": store}
    frame.to_csv(url, index=False, storage_options=options)
    pd.testing.assert_frame_equal(pd.read_csv(url, storage_options=options), frame)
    with alknet_fs.open(store) as opened:
        start = opened.branch().read_bytes(f"/tables/{name}")[:8]
    assert start == b"id,part," if name == "table.csv" else start.startswith(b"\x1f\x8b")


def test_pandas_parquet(store: str, frame: pd.DataFrame) -> None:
    url = "alkfs://default/main/table.parquet"
    options = {"store": store}
    frame.to_parquet(url, storage_options=options)
    pd.testing.assert_frame_equal(pd.read_parquet(url, storage_options=options), frame)
    some = pd.read_parquet(
        url, columns=["value"], filters=[("id", "<", 5)], storage_options=options
    )
    pd.testing.assert_frame_equal(some, frame[["value"]].head(5))


def test_pandas_finds_the_store_by_the_environment(
    store: str, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALKFS_STORE", store)
    frame.to_csv("alkfs://default/main/table.csv", index=False)
    pd.testing.assert_frame_equal(pd.read_csv("alkfs://default/main/table.csv"), frame)


def test_pyarrow_dataset(fs: AlkFileSystem, frame: pd.DataFrame) -> None:
    arrow = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))
    table = pa.Table.from_pandas(frame)
    ds.write_dataset(
        table, "default/main/set", format="parquet", partitioning=["part"], filesystem=arrow
    )
    assert [path.rpartition("/")[2] for path in fs.ls("default/main/set", detail=False)] == [
        "0",
        "1",
        "2",
        "3",
    ]
    found = ds.dataset(
        "default/main/set", format="parquet", partitioning=["part"], filesystem=arrow
    )
    assert found.count_rows() == len(frame)
    part = found.to_table(filter=ds.field("part") == 2).to_pandas().sort_values("id")
    assert part["name"].tolist() == frame[frame["part"] == 2]["name"].tolist()


def test_pyarrow_in_one_commit(fs: AlkFileSystem, frame: pd.DataFrame) -> None:
    table = pa.Table.from_pandas(frame)
    with fs.transaction:
        pq.write_to_dataset(table, "default/main/set", partition_cols=["part"], filesystem=fs)
        assert not fs.exists("default/main/set")
    assert pq.read_table("default/main/set", filesystem=fs).num_rows == len(frame)
    with pytest.raises(RuntimeError), fs.transaction:
        pq.write_to_dataset(table, "default/main/none", partition_cols=["part"], filesystem=fs)
        raise RuntimeError
    assert not fs.exists("default/main/none")


def test_duckdb(fs: AlkFileSystem, frame: pd.DataFrame) -> None:
    with duckdb.connect() as connection:
        connection.register_filesystem(fs)
        connection.register("frame", frame)
        connection.sql("COPY frame TO 'alkfs://default/main/duck.parquet' (FORMAT parquet)")
        count, total = connection.sql(
            "SELECT count(*), sum(id) FROM read_parquet('alkfs://default/main/duck.parquet')"
        ).fetchall()[0]
        assert (count, total) == (len(frame), frame["id"].sum())
        connection.sql("COPY frame TO 'alkfs://default/main/duck.csv'")
        found = connection.sql("SELECT max(id) FROM read_csv('alkfs://default/main/*.csv')")
        assert found.fetchall() == [(frame["id"].max(),)]
    read = pd.read_parquet("default/main/duck.parquet", filesystem=fs)
    pd.testing.assert_frame_equal(read, frame)


def test_zarr(fs: AlkFileSystem) -> None:
    data = np.arange(60_000).reshape(300, 200)
    array = zarr.create_array(
        FsspecStore.from_mapper(fs.get_mapper("default/main/array")),
        shape=data.shape,
        chunks=(100, 50),
        dtype=data.dtype,
    )
    array[:] = data
    assert len(fs.find("default/main/array/c")) == 12
    url = FsspecStore.from_url(
        "alkfs://default/main/array", storage_options={"store": fs.store.path}, read_only=True
    )
    found = zarr.open_array(url, mode="r")
    np.testing.assert_array_equal(found[:], data)
    np.testing.assert_array_equal(found[90:110, 40:60], data[90:110, 40:60])


@pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning")
@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_dask(store: str, frame: pd.DataFrame, scheduler: str) -> None:
    url = "alkfs://default/main/dask"
    options = {"store": store}
    with dask.config.set(scheduler=scheduler):
        parts = dd.from_pandas(frame, npartitions=3)
        parts.to_parquet(url, storage_options=options)
        back = dd.read_parquet(url, storage_options=options)
        assert back.npartitions == 3
        assert back["value"].sum().compute() == pytest.approx(frame["value"].sum())
        pd.testing.assert_frame_equal(back.compute(), frame, check_dtype=False)


def test_urls_of_one_branch(store: str) -> None:
    files = fsspec.open_files("alkfs:///logs/*.txt", "w", num=2, store=store, branch="main")
    with files as opened:
        for number, file in enumerate(opened):
            file.write(f"line {number}\n")
    found = fsspec.open_files("alkfs:///logs/*.txt", "r", store=store, branch="main")
    with found as opened:
        assert [file.read() for file in opened] == ["line 0\n", "line 1\n"]
