"""An output is read whole, each row once, by readers that know nothing of optinfer, as their manuals say it is done.

Some of them leave out folders that begin with `_`, others nothing: all look for `.parquet`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow.dataset as pads
import pytest

import optinfer
from optinfer.data.output import Output
from optinfer.execution.in_process import InProcess
from optinfer.execution.placement import Node
from tests.conftest import REPO, everything_under

BEFORE = REPO / "tests" / "outputs_before"
QUARANTINED = {5, 30}
IDS = [row for row in range(48) if row not in QUARANTINED]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Score 48 rows, two of which cannot be, into vectors of three numbers; return the output's folder."""
    folder = tmp_path_factory.mktemp("readers")
    for name in ("job.yaml", "model.onnx", "table.parquet"):
        shutil.copyfile(BEFORE / name, folder / name)
    paths = (f"source.path={folder}/table.parquet", f"model.path={folder}/model.onnx", f"sink.path={folder}/out")
    record = optinfer.run(optinfer.load_job(folder / "job.yaml", paths), executor=InProcess([Node(cpus=1)]))
    assert (record.rows_out, record.rows_quarantined) == (len(IDS), len(QUARANTINED))
    return folder / "out"


@pytest.fixture
def begun(output: Path, tmp_path: Path) -> Path:
    """Return the same output as a run leaves it that was killed while it made a part."""
    folder = tmp_path / "out"
    shutil.copytree(output, folder)
    for name in ("_SUCCESS", "_manifest.json"):
        (folder / name).unlink()
    assert Output(str(folder)).attempts.begin("part-000099.parquet", "here") is None
    return folder


def duckdb_glob(folder: Path) -> list[int]:
    import duckdb

    return [row for (row,) in duckdb.sql(f"SELECT id FROM '{folder}/**/*.parquet' ORDER BY id").fetchall()]


def polars_glob(folder: Path) -> list[int]:
    return pl.read_parquet(f"{folder}/**/*.parquet")["id"].to_list()


def pandas_folder(folder: Path) -> list[int]:
    return list(pd.read_parquet(folder)["id"])


def pyarrow_folder(folder: Path) -> list[int]:
    found: list[int] = pads.dataset(folder, format="parquet").to_table()["id"].to_pylist()
    return found


def datasets_folder(folder: Path) -> list[int]:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install datasets")
    found: list[int] = datasets.load_dataset(str(folder), cache_dir=str(folder.parent / "cache"))["train"]["id"]
    return list(found)


def lancedb_table(folder: Path) -> list[int]:
    """Give LanceDB what pyarrow finds in the folder, and look for the nearest of the first vector."""
    lancedb = pytest.importorskip("lancedb", reason="lancedb is not installed: pip install lancedb")
    rows = pads.dataset(folder, format="parquet").to_table()
    table = lancedb.connect(str(folder.parent / "lance")).create_table("rows", rows)
    near = table.search(rows["y"][0].as_py(), vector_column_name="y").limit(1).to_list()
    assert near[0]["id"] == rows["id"][0].as_py()
    found: list[int] = table.to_arrow()["id"].to_pylist()
    return found


def spark_folder(folder: Path) -> list[int]:
    sql = pytest.importorskip("pyspark.sql", reason="pyspark is not installed: pip install pyspark, and a Java")
    session = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        return [row.id for row in session.read.parquet(str(folder)).select("id").collect()]
    finally:
        session.stop()


READERS = (
    duckdb_glob, polars_glob, pandas_folder, pyarrow_folder, datasets_folder, lancedb_table, spark_folder,
)  # fmt: skip


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
@pytest.mark.parametrize("which", ["output", "begun"])
def test_a_reader_finds_each_row_once_and_nothing_else(
    request: pytest.FixtureRequest, read: Callable[[Path], list[int]], which: str, tmp_path: Path
) -> None:
    folder = tmp_path / "read"
    shutil.copytree(request.getfixturevalue(which), folder)
    assert sorted(read(folder)) == IDS


def test_only_parts_are_named_as_rows(output: Path, begun: Path) -> None:
    for folder in (output, begun):
        named = [name for name in everything_under(folder) if ".parquet" in name]
        assert all(name.startswith("part-") and name.endswith(".parquet") for name in named), named


def test_what_is_aside_is_parquet_all_the_same(output: Path) -> None:
    import duckdb

    reasons = duckdb.sql(f"SELECT id, _reason FROM read_parquet('{output}/_quarantine/*.pq') ORDER BY id").fetchall()
    assert [row for row, _ in reasons] == sorted(QUARANTINED)
    assert duckdb.sql(f"SELECT sum(rows) FROM read_parquet('{output}/_optinfer/parts.pq')").fetchall() == [(46,)]


def test_vectors_are_vectors_of_float32_without_a_cast(output: Path) -> None:
    import duckdb

    frame = pl.read_parquet(f"{output}/*.parquet")
    assert frame.schema["y"] == pl.Array(pl.Float32, 3)
    assert frame["y"].to_numpy().shape == (len(IDS), 3)
    own = duckdb.sql(f"SELECT min(list_cosine_similarity(y, y)) FROM '{output}/*.parquet' WHERE id > 0").fetchall()
    assert own[0][0] == pytest.approx(1.0)
    assert np.stack(pd.read_parquet(output)["y"].to_list()).dtype == np.float32
