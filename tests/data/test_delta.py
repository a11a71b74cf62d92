"""Delta tables as source and as sink, held against what deltalake, DuckDB and Polars read of them."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

import optinfer
from optinfer.config import JobConfig, SourceConfig
from optinfer.data import sources
from optinfer.data.sinks import delta as sinks
from optinfer.data.sources.delta import plan
from optinfer.data.storage import Folder
from optinfer.data.store_options import storage_options
from optinfer.errors import ConfigError, OutputConflictError
from optinfer.execution.in_process import InProcess
from optinfer.records.run import RunRecord
from tests.conftest import MakeJob

ROWS = 48
DAYS = [datetime.date(2024, 2, 29), None, datetime.date(1969, 12, 31)]
TEXTS = ["a b", "c/d", "e%2Ff", None, "", "ü"]
TABLE = pa.table(
    {
        "id": [f"r{i}" for i in range(ROWS)],
        "text": [f"a text {i}" for i in range(ROWS)],
        "day": [DAYS[i % 3] for i in range(ROWS)],
        "kind": [TEXTS[i % 6] for i in range(ROWS)],
        "number": pa.array([i % 2 for i in range(ROWS)], pa.int16()),
        "at": pa.array([i % 2 * 1_500_000 for i in range(ROWS)], pa.timestamp("us", "UTC")),
        "flag": [[True, False, None][i % 3] for i in range(ROWS)],
    }
)
pytestmark = pytest.mark.usefixtures("fake_variant")


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("bucket") if request.param == "s3" else tmp_path)


@pytest.fixture
def table(place: str) -> str:
    """Return a table of two versions, the second with ten rows twice."""
    url = f"{place}/table"
    options = storage_options(url)
    write_deltalake(url, TABLE, partition_by=["day", "kind", "number", "at", "flag"], storage_options=options)
    write_deltalake(url, TABLE.slice(0, 10), mode="append", storage_options=options)
    return url


def opened(url: str) -> DeltaTable:
    return DeltaTable(url, storage_options=storage_options(url))


def rows(found: pa.Table, *names: str) -> list[tuple[Any, ...]]:
    return sorted((tuple(row.values()) for row in found.select(list(names)).to_pylist()), key=str)


def job(make_job: MakeJob, source: str, sink: str, **changes: Any) -> JobConfig:
    settings = {"sink__format": "delta", "sink__columns": ["id"], "source__columns": {"text": "text"}, **changes}
    return make_job(source, sink, **settings)


def run(config: JobConfig) -> RunRecord:
    return optinfer.run(config, executor=InProcess())


@pytest.mark.parametrize(("version", "count"), [(0, ROWS), (None, ROWS + 10)])
def test_one_version_is_scored_with_the_partitions_of_its_log(
    make_job: MakeJob, place: str, table: str, version: int | None, count: int
) -> None:
    names = TABLE.column_names
    names.remove("text")
    record = run(job(make_job, table, f"{place}/out", source__version=version, sink__columns=names))
    assert record.rows_out == count
    expected = DeltaTable(table, version=version, storage_options=storage_options(table)).to_pyarrow_table()
    scored = opened(f"{place}/out").to_pyarrow_table()
    assert rows(scored, *names) == rows(expected, *names)
    assert scored.schema.field("at").type == pa.timestamp("us", "UTC")


def test_an_output_that_was_begun_goes_on_with_its_version_though_the_table_moved_on(
    make_job: MakeJob, place: str, table: str
) -> None:
    config = job(make_job, table, f"{place}/out")
    first = run(config)
    folder = Folder(f"{place}/out")
    for name in ("_SUCCESS", "_manifest.json", "part-000000.parquet"):
        folder.delete(name)
    write_deltalake(table, TABLE.slice(0, 1), mode="append", storage_options=storage_options(table))
    said: list[str] = []
    again = optinfer.run(config, say=said.append, executor=InProcess())
    assert (again.fingerprint, again.rows_in) == (first.fingerprint, ROWS + 10)
    assert again.fragments_resumed == again.fragments - 1
    assert any("is read at version 1, with which" in line for line in said)
    assert run(config_to(config, f"{place}/other")).rows_in == ROWS + 11, "another output has the latest rows"


def config_to(config: JobConfig, path: str) -> JobConfig:
    return config.model_copy(update={"sink": config.sink.model_copy(update={"path": path})})


def test_a_table_that_moves_on_is_another_job_and_its_version_the_same(
    make_job: MakeJob, place: str, table: str
) -> None:
    first = run(job(make_job, table, f"{place}/out"))
    write_deltalake(table, TABLE.slice(0, 1), mode="append", storage_options=storage_options(table))
    with pytest.raises(OutputConflictError, match=r"source\.version: 1 there, 2 here"):
        run(job(make_job, table, f"{place}/out"))
    assert run(job(make_job, table, f"{place}/out", source__version=1)).fingerprint == first.fingerprint


def test_a_table_is_one_version_that_other_readers_read(make_job: MakeJob, place: str, table: str) -> None:
    record = run(job(make_job, table, f"{place}/out", source__version=0))
    assert run(job(make_job, table, f"{place}/out", source__version=0)).status == "nothing to do"
    found = opened(f"{place}/out")
    assert (found.version(), found.transaction_version(f"optinfer-{record.fingerprint}")) == (0, 1)
    ids = sorted(TABLE["id"].to_pylist())
    assert sorted(found.to_pyarrow_table()["id"].to_pylist()) == ids
    by_polars = pl.read_delta(f"{place}/out", storage_options=storage_options(f"{place}/out"))
    assert sorted(by_polars["id"].to_list()) == ids
    query = "SELECT count(DISTINCT id), count(*), min(len(embedding)) FROM scored"
    assert duckdb.from_arrow(found.to_pyarrow_dataset()).query("scored", query).fetchall() == [(ROWS, ROWS, 384)]


def test_parts_that_are_lost_and_made_again_are_in_the_table_once(make_job: MakeJob, tmp_path: Path) -> None:
    write_deltalake(tmp_path / "table", TABLE)
    config = job(make_job, str(tmp_path / "table"), str(tmp_path / "out"))
    run(config)
    (tmp_path / "out" / "part-000001.parquet").unlink()
    assert run(config).fragments_scored_again == 0
    found = DeltaTable(tmp_path / "out")
    assert sorted(found.to_pyarrow_table()["id"].to_pylist()) == sorted(TABLE["id"].to_pylist())


def test_a_table_that_somebody_compacted_gets_no_row_twice(make_job: MakeJob, tmp_path: Path) -> None:
    write_deltalake(tmp_path / "table", TABLE)
    config = job(make_job, str(tmp_path / "table"), str(tmp_path / "out"))
    run(config)
    found = DeltaTable(tmp_path / "out")
    found.optimize.compact()
    found.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    with pytest.raises(Exception, match=r"not of this output|not of this job"):
        run(config)
    assert DeltaTable(tmp_path / "out").to_pyarrow_table().num_rows == ROWS


def test_vacuum_leaves_what_is_in_no_log(make_job: MakeJob, tmp_path: Path) -> None:
    bad = TABLE.set_column(1, "text", pa.array([None, *TABLE["text"].to_pylist()[1:]]))
    write_deltalake(tmp_path / "table", bad)
    config = job(make_job, str(tmp_path / "table"), str(tmp_path / "out"), sink__error_threshold=2)
    run(config)
    found = DeltaTable(tmp_path / "out")
    found.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert run(config).status == "nothing to do"
    assert len(list((tmp_path / "out" / "_quarantine").iterdir())) == 1
    assert found.to_pyarrow_table().num_rows == ROWS - 1


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ({"delta.enableDeletionVectors": "true"}, r"uses Delta's deletionVectors, .*purge them"),
        ({"delta.columnMapping.mode": "name"}, r"uses Delta's columnMapping, .*without column mapping"),
    ],
)
def test_what_its_files_do_not_tell_is_refused(tmp_path: Path, configuration: dict[str, str], message: str) -> None:
    write_deltalake(tmp_path / "table", TABLE)
    log = tmp_path / "table" / "_delta_log" / f"{0:020d}.json"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    features = ["deletionVectors"] if "delta.enableDeletionVectors" in configuration else ["columnMapping"]
    for line in lines:
        if "metaData" in line:
            schema = json.loads(line["metaData"]["schemaString"])
            for number, field in enumerate(schema["fields"]):
                field["metadata"] = {
                    "delta.columnMapping.id": number,
                    "delta.columnMapping.physicalName": field["name"],
                }
            line["metaData"] |= {"configuration": configuration, "schemaString": json.dumps(schema)}
        if "protocol" in line:
            line["protocol"] = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features,
                                "writerFeatures": features}  # fmt: skip
    log.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ConfigError, match=message):
        plan(SourceConfig(path=str(tmp_path / "table")), ["text"], 100)


def test_a_version_that_is_not_there_or_not_whole_is_refused(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "table", TABLE)
    with pytest.raises(ConfigError, match=r"in version 7: .*correct source\.path or source\.version"):
        plan(SourceConfig(path=str(tmp_path / "table"), version=7), ["text"], 100)
    write_deltalake(tmp_path / "table", TABLE.slice(0, 3), mode="overwrite")
    DeltaTable(tmp_path / "table").vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    with pytest.raises(optinfer.OptinferError, match=r"were vacuumed; give a later source\.version"):
        plan(SourceConfig(path=str(tmp_path / "table"), version=0), ["text"], 100)
    assert plan(SourceConfig(path=str(tmp_path / "table")), ["text"], 100).rows == 3


def test_the_kind_of_a_table_is_found_and_one_without_versions_takes_none(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "table", TABLE)
    assert sources.kind_of(SourceConfig(path=str(tmp_path / "table"))) == "delta"
    assert sources.kind_of(SourceConfig(path=str(tmp_path))) == "parquet"
    with pytest.raises(ConfigError, match=r"source\.version has no use with a parquet source"):
        sources.kind_of(SourceConfig(path=str(tmp_path), version=1))
    with pytest.raises(ConfigError, match=r"no sources plugin 'delt'; did you mean 'delta'\?"):
        sources.kind_of(SourceConfig(path=str(tmp_path), format="delt"))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (pa.field("x", pa.uint32()), r"no type for the column 'x' of uint32"),
        (pa.field("x", pa.time64("us")), r"no type for the column 'x' of time64"),
        (pa.field("x", pa.timestamp("ns")), r"no type for the column 'x' of timestamp\[ns\]"),
        (pa.field("x", pa.list_(pa.struct([("y", pa.float16())]))), r"no type for the column 'x.y' of halffloat"),
        (pa.field("a b", pa.string()), r"no column 'a b'"),
        (pa.field("ID", pa.string()), r"\['ID', 'id'\] apart by case"),
    ],
)
def test_columns_that_a_table_cannot_hold_are_refused(tmp_path: Path, field: pa.Field, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sinks.check(str(tmp_path / "out"), pa.schema([pa.field("id", pa.string()), field]))


def test_somebody_elses_table_is_no_place_for_an_output(make_job: MakeJob, tmp_path: Path) -> None:
    write_deltalake(tmp_path / "table", TABLE)
    write_deltalake(tmp_path / "out", TABLE, partition_by=["number"])
    with pytest.raises(ConfigError, match="somebody else's Delta table; choose a path with nothing there"):
        run(job(make_job, str(tmp_path / "table"), str(tmp_path / "out")))
