"""A partition's value is what its folder says, unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optinfer.config import SourceConfig
from optinfer.data.reading import FragmentReader
from optinfer.data.sources.parquet import plan as plan_source
from optinfer.errors import ConfigError


def read(folder: Path, columns: list[str]) -> pa.Table:
    planned = plan_source(SourceConfig(path=str(folder)), columns, wanted_rows=1024)
    reader = FragmentReader(columns)
    table = pa.concat_tables([reader.read(fragment) for fragment in planned.fragments])
    assert table.schema.types == [planned.schema.field(name).type for name in columns]
    return table


def write(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns or {"id": [1, 2]}), path)


@pytest.mark.parametrize(
    ("folders", "values"),
    [
        (["1", "22", "-3"], [-3, 1, 22]),
        (["0"], [0]),
        (["9223372036854775807", "-9223372036854775808"], [-9223372036854775808, 9223372036854775807]),
        (["9223372036854775808", "1"], ["1", "9223372036854775808"]),
        (["007", "8"], ["007", "8"]),
        (["-0"], ["-0"]),
        (["+1"], ["+1"]),
        ([" 1"], [" 1"]),
        (["1e5"], ["1e5"]),
        (["1.0"], ["1.0"]),
        (["1_000"], ["1_000"]),
        (["٣"], ["٣"]),  # a digit to Python, too
        (["a=b"], ["a=b"]),
        (["a%20b", "c+d"], ["a b", "c+d"]),
        (["%2F"], ["/"]),
        (["50%"], ["50%"]),
        (["é"], ["é"]),
        ([""], [""]),
        (["__HIVE_DEFAULT_PARTITION__", "1"], [1, None]),
        (["__HIVE_DEFAULT_PARTITION__", "x"], ["x", None]),
        (["__HIVE_DEFAULT_PARTITION__"], [None]),
        (["null", "None"], ["None", "null"]),
    ],
)
def test_values(tmp_path: Path, folders: list[str], values: list[Any]) -> None:
    for folder in folders:
        write(tmp_path / f"k={folder}" / "a.parquet")
    found = set(read(tmp_path, ["id", "k"])["k"].to_pylist())
    assert found == set(values)
    assert {type(v) for v in found} == {type(v) for v in values}


def test_a_key_is_decoded_like_a_value(tmp_path: Path) -> None:
    write(tmp_path / "the%20key=1" / "a.parquet")
    assert read(tmp_path, ["the key"])["the key"].to_pylist() == [1, 1]


@pytest.mark.parametrize(
    ("folder", "says"), [("k=%ff", "is no UTF-8 text; rename it"), ("k=1/k=2", r"names the partition 'k' twice")]
)
def test_what_cannot_be_told_is_refused(tmp_path: Path, folder: str, says: str) -> None:
    write(tmp_path / folder / "a.parquet")
    with pytest.raises(ConfigError, match=says):
        read(tmp_path, ["id"])


def test_a_partition_that_not_every_file_has_is_refused_where_it_is_needed(tmp_path: Path) -> None:
    write(tmp_path / "k=1" / "a.parquet")
    write(tmp_path / "b.parquet")
    assert read(tmp_path, ["id"]).num_rows == 4
    with pytest.raises(ConfigError, match=r"'k' is not in .*b\.parquet|'k' is in .* but not in"):
        read(tmp_path, ["id", "k"])


def test_a_table_of_nothing_but_partitions_has_its_rows(tmp_path: Path) -> None:
    write(tmp_path / "text=good" / "a.parquet")
    write(tmp_path / "text=bad" / "a.parquet", id=[1, 2, 3])
    assert read(tmp_path, ["text"])["text"].to_pylist() == ["bad"] * 3 + ["good"] * 2


@pytest.mark.parametrize("values", [[7, 7], [8, 8], [7, 8], [7, None]])
def test_a_column_that_is_also_a_partition_must_agree(tmp_path: Path, values: list[Any]) -> None:
    write(tmp_path / "k=7" / "a.parquet", id=[1, 2], k=values)
    assert read(tmp_path, ["id"]).num_rows == 2
    if values == [7, 7]:
        assert read(tmp_path, ["id", "k"])["k"].to_pylist() == values
    else:
        with pytest.raises(ConfigError, match=r"'k' is in .* and also in its folder's name \(k=7\)"):
            read(tmp_path, ["id", "k"])


def test_without_statistics_nothing_shows_that_they_agree(tmp_path: Path) -> None:
    (tmp_path / "k=7").mkdir()
    pq.write_table(pa.table({"k": [7, 7]}), tmp_path / "k=7" / "a.parquet", write_statistics=False)
    with pytest.raises(ConfigError, match="statistics do not show"):
        read(tmp_path, ["k"])
