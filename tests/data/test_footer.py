"""Files that are refused by their footers: encrypted ones, names that occur twice, counts that do not agree."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import pytest

from optinfer.config import SourceConfig
from optinfer.data.fragments import Plan
from optinfer.data.reading import FragmentReader
from optinfer.data.sources.parquet import plan as plan_source
from optinfer.errors import ConfigError, SourceError

TABLE = pa.table({"id": list(range(10)), "text": ["x"] * 10})


class Keys(encryption.KmsClient):
    """Wraps keys in nothing."""

    def wrap_key(self, key_bytes: bytes, _: str) -> bytes:
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key: bytes, _: str) -> bytes:
        return base64.b64decode(wrapped_key)


def encrypted(path: Path, **settings: Any) -> None:
    config = encryption.EncryptionConfiguration(footer_key="f", **settings)
    properties = encryption.CryptoFactory(lambda _: Keys()).file_encryption_properties(
        encryption.KmsConnectionConfig(), config
    )
    with pq.ParquetWriter(path, TABLE.schema, encryption_properties=properties) as writer:
        writer.write_table(TABLE)


def plan(path: Any, columns: list[str] | None = None, **settings: Any) -> Plan:
    return plan_source(SourceConfig(path=str(path), **settings), columns or ["id", "text"], wanted_rows=1024)


@pytest.mark.parametrize("on_bad_file", ["raise", "quarantine"])
@pytest.mark.parametrize(
    "settings",
    [
        {"column_keys": {"c": ["text"]}, "plaintext_footer": True},
        {"column_keys": {"c": ["text"]}, "plaintext_footer": True, "encryption_algorithm": "AES_GCM_CTR_V1"},
        {"column_keys": {"c": ["text"]}},
        {"uniform_encryption": True},
    ],
    ids=["a column", "a column, CTR", "a column and the footer", "everything"],
)
def test_encrypted_files_are_refused(tmp_path: Path, settings: dict[str, Any], on_bad_file: str) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    encrypted(tmp_path / "b.parquet", **settings)
    with pytest.raises(ConfigError, match=r"b\.parquet is an encrypted Parquet file"):
        plan(tmp_path, on_bad_file=on_bad_file)


def test_an_encrypted_column_would_end_the_process(tmp_path: Path) -> None:
    """What the refusal is for; where this fails, pyarrow has learned to say so itself."""
    encrypted(tmp_path / "a.parquet", column_keys={"c": ["text"]}, plaintext_footer=True)
    code = f"import pyarrow.parquet as pq; pq.read_metadata({str(tmp_path / 'a.parquet')!r}).row_group(0).column(1)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode < 0


@pytest.mark.parametrize("options", [{}, {"version": "1.0"}, {"store_schema": False}, {"write_page_index": True}])
def test_plain_files_are_not_taken_for_encrypted_ones(tmp_path: Path, options: dict[str, Any]) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet", **options)
    assert plan(tmp_path).rows == 10


def test_a_name_that_occurs_twice_is_refused_where_it_is_needed(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([TABLE["id"], TABLE["text"], TABLE["text"]], names=["id", "text", "text"])
    pq.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"'text' is in .*a\.parquet twice"):
        plan(tmp_path)
    assert plan(tmp_path, ["id"]).rows == 10


def test_a_name_that_occurs_twice_in_a_later_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    twice = pa.Table.from_arrays([TABLE["id"], TABLE["text"], TABLE["text"]], names=["id", "text", "text"])
    pq.write_table(twice, tmp_path / "b.parquet")
    with pytest.raises(ConfigError, match=r"'text' is in .*b\.parquet twice"):
        plan(tmp_path)


def lying(path: Path, said: int, in_group: int) -> None:
    """Write a file of ten rows whose footer says other numbers: of all its rows, and of its only row group's."""
    pq.write_table(TABLE.select(["id"]), path, store_schema=False, write_statistics=False, compression="none")
    data = path.read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    # Three counts are written as the zigzag of ten behind the header of a field of 64 bits: the file's rows, the
    # column's values, the row group's rows.
    before, values, group, after = data[start:].split(b"\x16\x14")
    counts = [bytes([0x16, count * 2]) for count in (said, 10, in_group)]
    path.write_bytes(data[:start] + before + counts[0] + values + counts[1] + group + counts[2] + after)


@pytest.mark.parametrize("said", [8, 12])
def test_a_footer_that_lies_about_its_rows_is_a_bad_one(tmp_path: Path, said: int) -> None:
    lying(tmp_path / "a.parquet", said, said)
    assert pq.read_metadata(tmp_path / "a.parquet").num_rows == said
    with pytest.raises(SourceError, match=f"'id' has 10 values in row group 0, of {said} rows"):
        plan(tmp_path, ["id"])


@pytest.mark.parametrize("said", [8, 12])
def test_row_groups_that_do_not_add_up_are_said(tmp_path: Path, said: int) -> None:
    lying(tmp_path / "a.parquet", said, 10)
    with pytest.raises(SourceError, match=f"its footer says {said} rows and 10 in its row groups"):
        plan(tmp_path, ["id"])


@pytest.mark.parametrize("rows", [[0, 5], [0, 0, 3], [4, 0]])
def test_files_without_rows_among_others(tmp_path: Path, rows: list[int]) -> None:
    for number, count in enumerate(rows):
        pq.write_table(TABLE.slice(0, count), tmp_path / f"{number}.parquet")
    with pq.ParquetWriter(tmp_path / "no-groups.parquet", TABLE.schema):
        pass
    planned = plan(tmp_path)
    assert sum(FragmentReader(["id"]).read(f).num_rows for f in planned.fragments) == planned.rows == sum(rows)


def test_bytes_of_a_column_with_dots_in_its_name_count(tmp_path: Path) -> None:
    table = pa.table({"a.b": ["x" * 1000] * 50, "c": [1] * 50})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10, use_dictionary=False, compression="none")
    cut = {"fragment_mb": 0.015, "fragment_rows": 1000}
    assert len(plan(tmp_path, ["a.b"], **cut).fragments) == 5
    assert len(plan(tmp_path, ["c"], **cut).fragments) == 1
