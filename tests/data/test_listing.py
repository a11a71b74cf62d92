"""What of a source is read, what is left out and said, and which folders are more than their files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optinfer.config import SourceConfig
from optinfer.data.fragments import Plan
from optinfer.data.listing import list_source
from optinfer.data.sources.parquet import plan as plan_source
from optinfer.errors import ConfigError, SourceError
from tests.conftest import RunCli, WriteJob, WriteTable
from tests.data import flaky_store
from tests.data.flaky_store import FlakyStore


def write(path: Path, first: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": list(range(first, first + 5)), "text": ["x"] * 5}), path)
    return path


def plan(path: Any, **settings: Any) -> Plan:
    return plan_source(SourceConfig(path=str(path), **settings), ["id", "text"], wanted_rows=1024)


LOGS = {
    "Delta": "_delta_log/00000000000000000000.json",
    "Iceberg": "metadata/v1.metadata.json",
    "Hudi": ".hoodie/hoodie.properties",
    "Lance": "_versions/1.manifest",
    "Spark streaming": "_spark_metadata/0",
}


@pytest.fixture(params=LOGS)
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """Return a format's name and a folder with a table of it, its data two folders down."""
    table = tmp_path / "lake" / "table"
    write(table / "data" / "day=1" / "part-0.parquet")
    (table / LOGS[request.param]).parent.mkdir(parents=True)
    (table / LOGS[request.param]).write_text("{}")
    return request.param, table


@pytest.mark.parametrize(
    "path", ["", "data", "data/day=1", "..", "data/*/*.parquet", "data/day=1/*.parquet", "../*/data/*/*.parquet"]
)
def test_a_table_formats_folder_is_refused_from_above_beside_and_below(foreign: tuple[str, Path], path: str) -> None:
    name, table = foreign
    source = os.path.normpath(f"{table}/{path}")
    with pytest.raises(
        ConfigError, match=rf"is a {name} table \(.*is its log\).*point source\.path (there|at the table)"
    ):
        plan(source)


def test_a_single_file_of_such_a_table_is_the_users_choice(foreign: tuple[str, Path]) -> None:
    assert plan(foreign[1] / "data" / "day=1" / "part-0.parquet").rows == 5


def test_folders_that_are_only_named_like_a_log_are_none(tmp_path: Path) -> None:
    write(tmp_path / "table" / "metadata" / "a.parquet")
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "notes.json").write_text("{}")
    assert plan(tmp_path / "table").rows == 5


def test_a_delta_table_on_s3_is_refused(bucket: str, tmp_path: Path) -> None:
    fs = fsspec.filesystem("s3")
    fs.put(str(write(tmp_path / "a.parquet")), f"{bucket}/lake/t/day=1/a.parquet")
    fs.pipe_file(f"{bucket}/lake/t/_delta_log/00.json", b"{}")
    for path in ("lake", "lake/t", "lake/t/day=1", "lake/t/*/*.parquet", "lake/*/*/a.parquet"):
        with pytest.raises(ConfigError, match="is a Delta table"):
            plan(f"{bucket}/{path}")
    assert plan(f"{bucket}/lake/t/day=1/a.parquet").rows == 5


def test_a_store_that_does_not_say_whether_there_is_a_log_is_not_taken_for_a_plain_folder(
    bucket: str, tmp_path: Path, flaky: FlakyStore
) -> None:
    fsspec.filesystem("s3").put(str(write(tmp_path / "a.parquet")), f"{bucket}/t/a.parquet")
    flaky.meets = lambda method, path, headers: "_delta_log" in path
    flaky.forever = flaky_store.refusal(500, "InternalError")
    with pytest.raises(SourceError, match="cannot list"):
        plan(f"{bucket}/t/*.parquet")


def test_files_without_a_suffix_are_left_out_and_said(tmp_path: Path) -> None:
    for name in (
        "part-00000",
        "part-00001.parquet",
        "b/part-00002.snappy",
        "_SUCCESS",
        ".crc",
        "_temporary/part-00000",
    ):
        write(tmp_path / name)
    planned = plan(tmp_path)
    assert planned.rows == 5
    (line,) = planned.warnings
    assert line.startswith("2 files (b/part-00002.snappy, part-00000) in ")
    assert "no .parquet suffix" in line


def test_of_many_files_that_are_left_out_the_first_are_named(tmp_path: Path) -> None:
    for number in range(9):
        write(tmp_path / f"part-{number}")
    write(tmp_path / "a.parquet")
    (line,) = plan(tmp_path).warnings
    assert line.startswith("9 files (part-0, part-1, part-2, ...) in ")


def test_a_source_without_any_suffix_names_what_is_there(tmp_path: Path) -> None:
    write(tmp_path / "part-00000")
    with pytest.raises(ConfigError, match=r"no \.parquet file in .*without the suffix: 1 file \(part-00000\)"):
        plan(tmp_path)


def test_empty_files_without_a_suffix_are_markers_and_say_nothing(tmp_path: Path, bucket: str) -> None:
    write(tmp_path / "a.parquet")
    (tmp_path / "day=1_$folder$").write_bytes(b"")
    assert plan(tmp_path).warnings == ()
    fs = fsspec.filesystem("s3")
    fs.put(str(tmp_path / "a.parquet"), f"{bucket}/t/a.parquet")
    fs.call_s3("put_object", Bucket=bucket.removeprefix("s3://"), Key="t/", Body=b"")
    fs.call_s3("put_object", Bucket=bucket.removeprefix("s3://"), Key="t/day=1/", Body=b"")
    planned = plan(f"{bucket}/t/")
    assert (planned.rows, planned.warnings) == (5, ())


def test_an_empty_file_with_a_suffix_is_a_bad_one(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"")
    with pytest.raises(SourceError, match=r"b\.parquet is not a readable Parquet file"):
        plan(tmp_path)


@pytest.mark.parametrize("name", ["part-00000", "_hidden.parquet", "table.PARQUET", "[1].parquet", "a*b.parquet"])
def test_a_file_that_is_named_itself_is_read_whatever_its_name(tmp_path: Path, name: str) -> None:
    assert plan(write(tmp_path / name)).rows == 5


def test_a_partition_may_begin_with_an_underscore(tmp_path: Path) -> None:
    write(tmp_path / "_year=2024" / "a.parquet")
    write(tmp_path / "_old" / "a.parquet")
    planned = plan(tmp_path)
    assert planned.rows == 5
    assert "_year" in planned.schema.names


def test_links_are_followed_and_none_is_lost(tmp_path: Path) -> None:
    real = write(tmp_path / "elsewhere" / "a.parquet")
    write(tmp_path / "elsewhere" / "more" / "b.parquet", 5)
    table = tmp_path / "table"
    table.mkdir()
    (table / "a.parquet").symlink_to(real)
    (table / "more").symlink_to(tmp_path / "elsewhere" / "more")
    (table / "more" / "back").symlink_to(table)  # leads back up: read once
    assert plan(table).rows == 10
    assert plan(f"{table}/*").rows == 10


def test_a_link_to_a_file_that_is_read_anyway_does_not_give_its_rows_twice(tmp_path: Path) -> None:
    write(tmp_path / "2024.parquet")
    write(tmp_path / "2025.parquet", 5)
    (tmp_path / "latest.parquet").symlink_to("2025.parquet")
    (tmp_path / "a-first.parquet").symlink_to("2024.parquet")
    assert [os.path.basename(f) for f in list_source(str(tmp_path)).files] == ["2024.parquet", "2025.parquet"]
    assert plan(tmp_path / "latest.parquet").rows == 5


def test_a_link_to_nothing_is_said(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").symlink_to(tmp_path / "gone")
    with pytest.raises(SourceError, match=r"b\.parquet changed while it was planned: it is not there"):
        plan(tmp_path, on_bad_file="quarantine")


def test_a_pattern_takes_the_folders_it_matches_whole(tmp_path: Path, bucket: str) -> None:
    for day in (1, 2, 11):
        write(tmp_path / "t" / f"day={day}" / "a.parquet", day)
    assert [os.path.basename(os.path.dirname(f)) for f in list_source(f"{tmp_path}/t/day=1*").files] == [
        "day=1",
        "day=11",
    ]
    assert plan(f"{tmp_path}/t/day=1*").schema.names == ["id", "text", "day"]
    fsspec.filesystem("s3").put(str(tmp_path / "t"), f"{bucket}/t", recursive=True)
    assert plan(f"{bucket}/t/day=1*").rows == 10


@pytest.mark.usefixtures("without_ray", "fake_variant")
def test_plan_and_run_say_what_is_left_out(
    tmp_path: Path, write_table: WriteTable, run_cli: RunCli, write_job: WriteJob
) -> None:
    write_table(tmp_path / "in" / "part-00000", rows=8)
    write_table(tmp_path / "in" / "part-00001.parquet", rows=0)  # nothing to prove or to score, all else is said
    job = write_job(tmp_path / "in", tmp_path / "out")
    for command in ("plan", "run"):
        code, out, err = run_cli(command, job)
        assert (code, "1 file (part-00000) in" in (err if command == "run" else out + err)) == (0, True), err
