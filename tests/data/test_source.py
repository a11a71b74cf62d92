"""Listing the source, reading footers, refusing what cannot work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optinfer.config import SourceConfig
from optinfer.data.fragments import Plan
from optinfer.data.reading import FragmentReader
from optinfer.data.sources.parquet import plan as plan_source
from optinfer.errors import ConfigError, CorruptFileError, SourceError
from tests.conftest import WriteTable
from tests.data.watched import Watch

COLUMNS = ["id", "text"]


def plan(path: Any, columns: list[str] | None = None, **settings: Any) -> Plan:
    settings = {"fragment_rows": 16, **settings}
    return plan_source(SourceConfig(path=str(path), **settings), columns or COLUMNS, wanted_rows=1024)


def ids(planned: Plan) -> list[str]:
    reader = FragmentReader(COLUMNS)
    return [row for fragment in planned.fragments for row in reader.read(fragment)["id"].to_pylist()]


def expected_ids(path: Path, start: int = 0, stop: int = 2_000) -> list[str]:
    rows: list[str] = pq.read_table(path, columns=["id"])["id"].to_pylist()[start:stop]
    return rows


def test_a_file_is_read_whole_in_its_own_order(tmp_path: Path, write_table: WriteTable, sample_table: Path) -> None:
    planned = plan(write_table(tmp_path / "table.parquet", rows=40))
    assert ids(planned) == expected_ids(sample_table, 0, 40)


def test_a_folder_is_read_in_the_order_of_its_file_names(
    tmp_path: Path, write_table: WriteTable, sample_table: Path
) -> None:
    write_table(tmp_path / "b.parquet", rows=20, offset=20)
    write_table(tmp_path / "a.parquet", rows=20)
    assert ids(plan(tmp_path)) == expected_ids(sample_table, 0, 40)


def test_a_glob_takes_matching_files_only(tmp_path: Path, write_table: WriteTable, sample_table: Path) -> None:
    write_table(tmp_path / "day-1.parquet", rows=20)
    write_table(tmp_path / "other.parquet", rows=20, offset=20)
    assert ids(plan(tmp_path / "day-*.parquet")) == expected_ids(sample_table, 0, 20)


def test_files_that_readers_skip_are_skipped(tmp_path: Path, write_table: WriteTable) -> None:
    write_table(tmp_path / "a.parquet", rows=20)
    for hidden in ("_old.parquet", ".tmp.parquet", "_temporary/a.parquet"):
        write_table(tmp_path / hidden, rows=20)
    (tmp_path / "README.txt").write_text("not a table")
    assert plan(tmp_path).rows == 20


def test_one_huge_row_group_gives_many_fragments(tmp_path: Path, write_table: WriteTable, sample_table: Path) -> None:
    path = write_table(tmp_path / "table.parquet", rows=100, row_group_size=100)
    planned = plan(path)
    assert len(planned.fragments) == 7
    assert ids(planned) == expected_ids(sample_table, 0, 100)


def test_many_small_row_groups_are_joined(tmp_path: Path, write_table: WriteTable, sample_table: Path) -> None:
    path = write_table(tmp_path / "table.parquet", rows=100, row_group_size=3)
    planned = plan(path)
    assert [f.rows for f in planned.fragments] == [15] * 6 + [10]
    assert ids(planned) == expected_ids(sample_table, 0, 100)


def test_fragments_respect_the_byte_limit_of_the_needed_columns(tmp_path: Path, write_table: WriteTable) -> None:
    columns = {"id": ["a", "b", "c", "d"], "text": ["x"] * 4, "unused": ["y" * 100_000] * 4}
    path = write_table(tmp_path / "table.parquet", columns=columns, row_group_size=1, use_dictionary=False)
    assert len(plan(path, fragment_mb=0.01).fragments) == 1
    assert len(plan(path, columns=["unused"], fragment_mb=0.01).fragments) == 4


def test_a_limit_takes_the_first_rows(tmp_path: Path, write_table: WriteTable, sample_table: Path) -> None:
    write_table(tmp_path / "a.parquet", rows=20)
    write_table(tmp_path / "b.parquet", rows=20, offset=20)
    assert ids(plan(tmp_path, limit=25)) == expected_ids(sample_table, 0, 25)


def test_hive_partitions_become_columns(tmp_path: Path, write_table: WriteTable) -> None:
    write_table(tmp_path / "year=2023/section=net/a.parquet", columns={"id": ["a"], "text": ["x"]})
    write_table(tmp_path / "year=2024/section=web/b.parquet", columns={"id": ["b"], "text": ["y"]})
    columns = ["id", "year", "section"]
    planned = plan(tmp_path, columns=columns)
    reader = FragmentReader(columns)

    tables = [reader.read(f) for f in planned.fragments]
    assert [row for table in tables for row in table.to_pylist()] == [
        {"id": "a", "year": 2023, "section": "net"},
        {"id": "b", "year": 2024, "section": "web"},
    ]
    assert all(table.schema.types == [planned.schema.field(c).type for c in columns] for table in tables)


def test_partition_values_stay_texts_where_one_is_no_number(tmp_path: Path, write_table: WriteTable) -> None:
    write_table(tmp_path / "day=01/a.parquet", columns={"id": ["a"]})
    write_table(tmp_path / "day=last%20one/b.parquet", columns={"id": ["b"]})
    columns = ["id", "day"]
    reader = FragmentReader(columns)
    rows = [row for f in plan(tmp_path, columns=columns).fragments for row in reader.read(f).to_pylist()]
    assert rows == [{"id": "a", "day": "01"}, {"id": "b", "day": "last one"}]


def test_a_null_partition_keeps_the_type_of_the_others(tmp_path: Path, write_table: WriteTable) -> None:
    write_table(tmp_path / "year=2024/a.parquet", columns={"id": ["a"]})
    write_table(tmp_path / "year=__HIVE_DEFAULT_PARTITION__/b.parquet", columns={"id": ["b"]})
    columns = ["id", "year"]
    reader = FragmentReader(columns)
    tables = [reader.read(f) for f in plan(tmp_path, columns=columns).fragments]
    assert [t.schema.field("year").type for t in tables] == [pa.int64(), pa.int64()]
    assert [t["year"].to_pylist() for t in tables] == [[2024], [None]]


def test_partition_values_above_the_source_are_not_columns(tmp_path: Path, write_table: WriteTable) -> None:
    write_table(tmp_path / "env=prod/table/a.parquet", rows=10)
    assert "env" not in plan(tmp_path / "env=prod" / "table").schema.names


def test_a_table_on_s3_is_planned_and_read(
    bucket: str, sample_table: Path, write_table: WriteTable, tmp_path: Path
) -> None:
    local = write_table(tmp_path / "a.parquet", rows=40)
    fs = fsspec.filesystem("s3")
    fs.put(str(local), f"{bucket}/table/year=2024/a.parquet")
    planned = plan(f"{bucket}/table/", columns=[*COLUMNS, "year"])
    assert ids(planned) == expected_ids(sample_table, 0, 40)
    assert planned.schema.field("year").type == pa.int64()
    assert planned.files[0].version


def test_a_glob_on_s3_takes_matching_files_only(
    bucket: str, sample_table: Path, write_table: WriteTable, tmp_path: Path
) -> None:
    fs = fsspec.filesystem("s3")
    fs.put(str(write_table(tmp_path / "a.parquet", rows=20)), f"{bucket}/table/a.parquet")
    fs.put(str(write_table(tmp_path / "b.parquet", rows=20, offset=20)), f"{bucket}/table/b.parquet")
    assert ids(plan(f"{bucket}/table/b*.parquet")) == expected_ids(sample_table, 20, 40)


def test_a_changed_file_has_another_version(tmp_path: Path, write_table: WriteTable) -> None:
    path = write_table(tmp_path / "a.parquet", rows=10)
    before = plan(path).files
    write_table(path, rows=11)
    assert plan(path).files != before


def test_only_the_needed_columns_are_read(tmp_path: Path, write_table: WriteTable) -> None:
    fragment = plan(write_table(tmp_path / "a.parquet", rows=5)).fragments[0]
    assert FragmentReader(["id"]).read(fragment).column_names == ["id"]


def test_unneeded_columns_are_never_decoded(tmp_path: Path) -> None:
    path, texts = tmp_path / "a.parquet", ["one", "two"]
    table = pa.table({"id": ["sound 1", "sound 2"], "text": texts})
    pq.write_table(
        table, path, write_page_checksum=True, write_statistics=False, use_dictionary=False, compression="none"
    )
    path.write_bytes(path.read_bytes().replace(b"sound 1", b"damaged"))
    fragment = plan(path).fragments[0]
    assert FragmentReader(["text"]).read(fragment)["text"].to_pylist() == texts
    with pytest.raises(CorruptFileError, match="CRC"):
        FragmentReader(["id"]).read(fragment)


def test_a_large_row_group_is_fetched_once_for_its_fragments(tmp_path: Path, write_table: WriteTable) -> None:
    planned = plan(write_table(tmp_path / "a.parquet", rows=100, row_group_size=100))
    watch = Watch()
    reader = FragmentReader(COLUMNS, watch.patience)
    assert sum(reader.read(fragment).num_rows for fragment in planned.fragments) == 100
    assert len(watch.files) == len(planned.fragments) > 1
    assert [fetched > 0 for fetched in watch.fetched] == [True, *[False] * (len(planned.fragments) - 1)]


def test_a_file_that_changed_since_it_was_planned_is_refused(tmp_path: Path, write_table: WriteTable) -> None:
    path = write_table(tmp_path / "a.parquet", rows=16)
    fragment = plan(path).fragments[0]
    write_table(path, rows=10)
    with pytest.raises(SourceError, match=r"a\.parquet changed since it was planned: it has \d+ bytes"):
        FragmentReader(COLUMNS).read(fragment)


@pytest.mark.parametrize("path", ["missing.parquet", "missing/folder"])
def test_no_such_path_is_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match=rf"{path} does not exist; check source\.path"):
        plan(tmp_path / path)


def test_a_missing_s3_path_is_named(bucket: str) -> None:
    with pytest.raises(ConfigError, match=r"nothing/ does not exist"):
        plan(f"{bucket}/nothing/")


@pytest.mark.usefixtures("hasty_s3")
def test_an_s3_that_nobody_serves_says_what_to_check(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port}")
    with pytest.raises(SourceError, match=r"cannot list s3://bucket/table/.*check credentials, endpoint"):
        plan("s3://bucket/table/")


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(ConfigError, match=r"cannot open foo://table: Protocol not known"):
        plan("foo://table")


def test_a_glob_without_matches_says_to_check_the_pattern(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file matches .*\*\.parquet; check the pattern"):
        plan(tmp_path / "*.parquet")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no file; point source\.path at Parquet files"):
        plan(tmp_path)


def test_a_folder_without_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("id,text\n")
    with pytest.raises(ConfigError, match=r"no \.parquet file in"):
        plan(tmp_path)


def test_a_missing_column_suggests_the_nearest(tmp_path: Path, write_table: WriteTable) -> None:
    path = write_table(tmp_path / "a.parquet", rows=5)
    with pytest.raises(ConfigError, match=r"column 'tekst' is not in .*a\.parquet; did you mean 'text'\?"):
        plan(path, columns=["tekst"])


def test_a_column_missing_from_one_file_names_that_file(tmp_path: Path, write_table: WriteTable) -> None:
    write_table(tmp_path / "a.parquet", columns={"id": ["a"], "text": ["x"]})
    write_table(tmp_path / "b.parquet", columns={"id": ["b"]})
    with pytest.raises(ConfigError, match=r"column 'text' is in .*a\.parquet but not in .*b\.parquet"):
        plan(tmp_path)


def test_a_column_of_two_types_names_both_files(tmp_path: Path, write_table: WriteTable) -> None:
    write_table(tmp_path / "a.parquet", columns={"id": ["a"], "text": ["x"]})
    write_table(tmp_path / "b.parquet", columns={"id": [1], "text": ["x"]})
    with pytest.raises(ConfigError, match=r"'id' is string in .*a\.parquet but int64 in .*b\.parquet"):
        plan(tmp_path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_a_truncated_file_is_named_with_the_fix(tmp_path: Path, write_table: WriteTable) -> None:
    write_table(tmp_path / "a.parquet", rows=5)
    truncate(write_table(tmp_path / "b.parquet", rows=5))
    with pytest.raises(SourceError, match=r"b\.parquet is not a readable Parquet file .*on_bad_file: quarantine"):
        plan(tmp_path)


def test_a_truncated_file_is_left_out_where_the_job_says_so(
    tmp_path: Path, write_table: WriteTable, sample_table: Path
) -> None:
    write_table(tmp_path / "a.parquet", rows=5)
    truncate(write_table(tmp_path / "b.parquet", rows=5))
    planned = plan(tmp_path, on_bad_file="quarantine")
    assert ids(planned) == expected_ids(sample_table, 0, 5)
    assert [path for path, _ in planned.bad_files] == [str(tmp_path / "b.parquet")]


def test_a_source_of_only_broken_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(SourceError, match="none of the 1 files"):
        plan(tmp_path, on_bad_file="quarantine")


def test_a_table_without_rows_has_no_fragments(tmp_path: Path, write_table: WriteTable) -> None:
    planned = plan(write_table(tmp_path / "a.parquet", rows=0))
    assert planned.rows == 0
    assert list(planned.fragments) == []
