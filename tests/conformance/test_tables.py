"""Any table: read as it was planned, carried bit for bit as three readers see it, or refused with both names.

A cell is a column of one type, in one encoding, codec and layout. What we read is held against pyarrow's own reading of
the file; what we write against the file it came from, each read by pyarrow, DuckDB and Polars.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optinfer.config import SourceConfig
from optinfer.data.carrying import require_carried
from optinfer.data.output import Output
from optinfer.data.reading import FragmentReader
from optinfer.data.schema import without_views
from optinfer.data.sources.parquet import plan as plan_source
from optinfer.errors import ConfigError, CorruptFileError, SourceError
from optinfer.execution.scorer import FragmentScorer
from optinfer.execution.task import ScoringTask
from optinfer.inference.replica import ReplicaSettings
from tests.conformance.exact import exact
from tests.conformance.tables import COLUMNS, LAYOUTS, ROWS, as_text, cells, counts, repeated
from tests.conftest import WriteTable, located
from tests.data.committing import put

FRAGMENT_ROWS = 11
KEPT = [row for row in range(FRAGMENT_ROWS) if row % 4 != 2]
"""Rows of a fragment that are scored; the others are quarantined."""


def carry(source: Path, sink: Path, columns: list[str]) -> tuple[pa.Table, list[Path], list[int]]:
    """Read a table in fragments and write parts as a replica does.

    Returns all rows that were read, the parts, and the numbers of the rows in these.
    """
    planned = plan_source(SourceConfig(path=str(source), fragment_rows=FRAGMENT_ROWS), columns, wanted_rows=1024)
    carried = pa.schema([planned.schema.field(name) for name in columns])
    require_carried(carried)
    reader, output = FragmentReader(columns), Output(str(sink))
    tables: list[pa.Table] = []
    numbers: list[int] = []
    for fragment in planned.fragments:
        table = reader.read(fragment)
        assert table.schema.equals(carried, check_metadata=True)
        kept = pa.array([row for row in KEPT if row < table.num_rows], pa.int64())
        left = pa.array([row for row in range(table.num_rows) if row not in KEPT], pa.int64())
        part = planned.part_name(fragment.index)
        aside = table.take(left).append_column("_row", left)
        put(output, part, fragment, "f", "a", table.take(kept), aside)
        numbers += [row + sum(t.num_rows for t in tables) for row in kept.to_pylist()]
        tables.append(table)
    return pa.concat_tables(tables), sorted(sink.glob("part-*.parquet")), numbers


def by_pyarrow(*paths: Path) -> pa.Table:
    return pa.concat_tables([pq.ParquetFile(path, coerce_int96_timestamp_unit="us").read() for path in paths])


@cache
def connection() -> Any:
    return duckdb.connect(config={"autoinstall_known_extensions": "false"})


def by_duckdb(*paths: Path) -> pa.Table:
    query = "SELECT * FROM read_parquet($paths, hive_partitioning = false)"
    return connection().sql(query, params={"paths": [str(path) for path in paths]}).to_arrow_table()


def by_polars(*paths: Path) -> pa.Table:
    return pl.read_parquet(list(paths), hive_partitioning=False).to_arrow()


READERS = {"pyarrow": by_pyarrow, "DuckDB": by_duckdb, "Polars": by_polars}
UNREADABLE = {"string of other bytes": {"DuckDB", "Polars"}, "timestamp ms": {"DuckDB"}, "decimal256": {"Polars"}}
"""What readers refuse: texts that are none, dates as far as it goes, more digits than 38."""
DAYS = {("date64", "Polars")}
"""Parquet has days only: pyarrow reads days, where Polars follows Arrow's note of what they were in memory."""


def require_same_for_readers(source: Path, parts: list[Path], kept: list[int]) -> set[str]:
    """Hold parts against their source as every reader that takes the source sees both; return those readers."""
    able = set()
    for name, read in READERS.items():
        try:
            before = read(source)
            values = {column: exact(before[column]) for column in before.column_names}
        except Exception:  # readers refuse types in many ways; which do is held against what is known
            continue
        able.add(name)
        if (source.stem, name) in DAYS:
            continue
        after = read(*parts)
        for column, expected in values.items():
            assert exact(after[column]) == [expected[row] for row in kept], (name, column)
            kinds = [without_views(table.schema.field(column).type) for table in (before, after)]
            assert kinds[0] == kinds[1], (name, column)
    return able


@pytest.mark.parametrize(("column", "encoding", "codec", "layout"), cells())
def test_every_type_is_carried_bit_for_bit(tmp_path: Path, column: str, encoding: str, codec: str, layout: str) -> None:
    array, source = COLUMNS[column], tmp_path / f"{column}.parquet"
    options: dict[str, Any] = {**LAYOUTS[layout], "compression": codec, "use_dictionary": encoding == "dictionary"}
    if encoding not in ("PLAIN", "dictionary"):
        options["column_encoding"] = {"c": encoding}
    try:
        pq.write_table(pa.table({"c": array}), source, **options)
    except (pa.ArrowException, OSError, TypeError) as error:
        pytest.skip(f"pyarrow does not write it: {error}")
    table, parts, kept = carry(source, tmp_path / "out", ["c"])
    assert exact(table["c"]) == exact(by_pyarrow(source)["c"])
    able = require_same_for_readers(source, parts, kept)
    if encoding in ("PLAIN", "dictionary"):
        assert able == set(READERS) - UNREADABLE.get(column, set())
    else:
        assert "pyarrow" in able


@pytest.mark.parametrize(
    "kind",
    [pa.timestamp("s"), pa.date64(), pa.string_view(), pa.month_day_nano_interval(), pa.list_(pa.uuid())],
)
def test_a_type_that_writing_would_change_or_refuse_is_refused_before(kind: pa.DataType) -> None:
    with pytest.raises(ConfigError, match=r"sink\.columns: 'c' is .* and would not be carried unchanged"):
        require_carried(pa.schema([("id", pa.int64()), ("c", kind)]))


def test_the_suite_has_the_cells_it_promises() -> None:
    assert len(cells()) >= 80
    assert {layout for *_, layout in cells()} == set(LAYOUTS)


def written(path: Path, *arrays: pa.Array | tuple[pa.Field, pa.Array]) -> list[Path]:
    """Write a file for each array; return their paths."""
    path.mkdir()
    paths = []
    for number, each in enumerate(arrays):
        field, array = each if isinstance(each, tuple) else (pa.field("c", each.type), each)
        paths.append(path / f"{number}.parquet")
        pq.write_table(pa.Table.from_arrays([array], schema=pa.schema([field])), paths[-1])
    return paths


REQUIRED = pa.field("c", pa.int64(), nullable=False)
RECONCILED: dict[str, tuple[Any, Any, pa.DataType]] = {
    "int32, int64": (repeated([1, -1], pa.int32()), repeated([2**40], pa.int64()), pa.int64()),
    "int8, int16": (repeated([-128], pa.int8()), repeated([999], pa.int16()), pa.int16()),
    "uint8, int8": (repeated([255], pa.uint8()), repeated([-128], pa.int8()), pa.int16()),
    "uint32, int64": (repeated([2**32 - 1], pa.uint32()), repeated([-1], pa.int64()), pa.int64()),
    "float32, float64": (repeated([0.1, -0.0], pa.float32()), repeated([0.1], pa.float64()), pa.float64()),
    "float16, float32": (repeated([1.5], pa.float16()), repeated([0.1], pa.float32()), pa.float32()),
    "string, large_string": (repeated(["x", ""], pa.string()), repeated(["y"], pa.large_string()), pa.large_string()),
    "string, string_view": (repeated(["x"], pa.string()), repeated(["y" * 40], pa.string_view()), pa.large_string()),
    "binary, large_binary": (repeated([b"x"], pa.binary()), repeated([b"y"], pa.large_binary()), pa.large_binary()),
    "null, string": (pa.nulls(20), repeated(["x"], pa.string()), pa.string()),
    "null, list": (pa.nulls(20), repeated([[1]], pa.list_(pa.int64())), pa.list_(pa.field("element", pa.int64()))),
    "dictionary, string": (COLUMNS["dictionary"], repeated(["z"], pa.string()), pa.string()),
    "decimals": (
        repeated(["1.25"], pa.string()).cast(pa.decimal128(5, 2)),
        repeated(["7.1234"], pa.string()).cast(pa.decimal128(9, 4)),
        pa.decimal128(9, 4),
    ),
    "decimals, wide": (
        repeated(["1"], pa.string()).cast(pa.decimal128(38, 2)),
        repeated(["7"], pa.string()).cast(pa.decimal256(50, 2)),
        pa.decimal256(50, 2),
    ),
    "list, large_list": (
        repeated([[1], []], pa.list_(pa.int32())),
        repeated([[2]], pa.large_list(pa.int64())),
        pa.large_list(pa.field("element", pa.int64())),
    ),
    "fixed list, list": (
        pa.array([[1, 2]] * 20, pa.list_(pa.int32(), 2)),
        repeated([[2]], pa.list_(pa.int32())),
        pa.list_(pa.field("element", pa.int32())),
    ),
    "structs": (
        pa.array([{"a": 1}, None] * 10, pa.struct([("a", pa.int32())])),
        pa.array([{"a": 2**40}] * 9, pa.struct([("a", pa.int64())])),
        pa.struct([("a", pa.int64())]),
    ),
    "maps": (
        repeated([[("k", 1)]], pa.map_(pa.string(), pa.int32())),
        repeated([[("k", 2**40)]], pa.map_(pa.string(), pa.int64())),
        pa.map_(pa.string(), pa.int64()),
    ),
    "nullability": ((REQUIRED, pa.array([1, 2, 3])), repeated([4], pa.int64()), pa.int64()),
    "nullability inside": (
        repeated([[1]], pa.list_(pa.field("item", pa.int8(), nullable=False))),
        repeated([[None]], pa.list_(pa.int8())),
        pa.list_(pa.field("element", pa.int8())),
    ),
}


@pytest.mark.parametrize("turned", [False, True], ids=["", "turned"])
@pytest.mark.parametrize("case", RECONCILED)
def test_files_that_differ_without_loss_become_one_table(tmp_path: Path, case: str, turned: bool) -> None:
    *arrays, kind = RECONCILED[case]
    files = written(tmp_path / "in", *(reversed(arrays) if turned else arrays))
    table, parts, kept = carry(tmp_path / "in", tmp_path / "out", ["c"])
    assert table.schema.field("c").type == kind
    expected = [value for path in files for value in exact(pq.read_table(path)["c"].cast(kind))]
    assert exact(table["c"]) == expected
    for name, read in READERS.items():
        if case != "decimals, wide" or name == "pyarrow":
            assert exact(read(*parts)["c"].cast(kind)) == [expected[row] for row in kept]
    assert len({pq.read_schema(part).field("c") for part in parts}) == 1


REFUSED: dict[str, tuple[pa.Array, pa.Array]] = {
    "int64, uint64": (repeated([1], pa.int64()), repeated([1], pa.uint64())),
    "int64, string": (repeated([1], pa.int64()), repeated(["1"], pa.string())),
    "int64, float64": (repeated([1], pa.int64()), repeated([1.0], pa.float64())),
    "bool, int8": (repeated([True], pa.bool_()), repeated([1], pa.int8())),
    "string, binary": (repeated(["x"], pa.string()), repeated([b"x"], pa.binary())),
    "microseconds, nanoseconds": (counts([1], pa.timestamp("us")), counts([1], pa.timestamp("ns"))),
    "with a zone, without": (counts([1], pa.timestamp("us", "UTC")), counts([1], pa.timestamp("us"))),
    "date, timestamp": (counts([1], pa.date32()), counts([1], pa.timestamp("us"))),
    "structs of other names": (pa.array([{"a": 1}]), pa.array([{"b": 1}])),
    "structs of another order": (
        pa.array([{"a": 1, "b": 2}]),
        pa.array([{"b": 1, "a": 2}], pa.struct([("b", pa.int64()), ("a", pa.int64())])),
    ),
    "decimals that no type holds": (
        repeated(["1"], pa.string()).cast(pa.decimal256(76, 0)),
        repeated([".1"], pa.string()).cast(pa.decimal256(40, 30)),
    ),
    "uuid, its bytes": (COLUMNS["uuid"], COLUMNS["uuid"].storage),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_differ_otherwise_are_refused_with_both_names(tmp_path: Path, case: str) -> None:
    a, b = REFUSED[case]
    written(tmp_path / "in", a, b)
    with pytest.raises(ConfigError, match=r"column 'c' is (?s:.*)0\.parquet but (?s:.*)1\.parquet"):
        carry(tmp_path / "in", tmp_path / "out", ["c"])


def test_columns_of_another_order_and_names_that_are_nearly_the_same(tmp_path: Path) -> None:
    first = pa.table(
        {
            "a.b": [1, 2],
            "a": [{"b": 3}, {"b": 4}],
            "Id": ["x", "y"],
            "id": [5, 6],
            "größe": [7, 8],
            "": [9, 10],
            "a b": [0, 1],
        }
    )
    (tmp_path / "in").mkdir()
    pq.write_table(first, tmp_path / "in" / "0.parquet")
    pq.write_table(first.select(list(reversed(first.column_names))), tmp_path / "in" / "1.parquet")
    for names in (["a.b"], ["a"], first.column_names, ["id", "größe", "Id", ""]):
        table, *_ = carry(tmp_path / "in", tmp_path / f"out{len(names)}{names[0]}", names)
        assert table.to_pydict() == pa.concat_tables([first.select(names)] * 2).to_pydict()


@pytest.mark.parametrize("writer", ["Polars", "DuckDB"])
def test_files_that_others_wrote(tmp_path: Path, writer: str) -> None:
    chosen = [
        "bool",
        "int8",
        "int64",
        "uint32",
        "float32",
        "float64",
        "string",
        "large_binary",
        "date32",
        "timestamp us",
        "timestamp ns",
        "decimal128",
        "list",
        "struct",
    ]
    table = pa.table({name: COLUMNS[name] for name in chosen if not (writer == "DuckDB" and name == "date32")})
    source = tmp_path / f"{writer}.parquet"
    if writer == "Polars":
        pl.DataFrame(table).write_parquet(source, row_group_size=13, compression="lz4")
    else:
        with duckdb.connect() as connection:
            connection.register("given", table)
            connection.execute(
                f"COPY given TO '{source}' (FORMAT parquet, ROW_GROUP_SIZE 2048, PARQUET_VERSION v2, CODEC zstd)"
            )
    read, parts, kept = carry(source, tmp_path / "out", table.column_names)
    assert all(exact(read[name]) == exact(by_pyarrow(source)[name]) for name in table.column_names)
    for name in ("bool", "int64", "string", "decimal128", "list", "timestamp us"):
        assert exact(read[name]) == exact(table[name])
    assert set(require_same_for_readers(source, parts, kept)) == set(READERS)


def int96(path: Path, values: list[int | None], unit: str = "us") -> Path:
    pq.write_table(
        pa.table(
            {
                "c": counts([], pa.timestamp(unit))
                if not values
                else pa.array(values, pa.int64()).view(pa.timestamp(unit))
            }
        ),
        path,
        use_deprecated_int96_timestamps=True,
        row_group_size=4,
    )
    return path


def test_old_timestamps_beyond_the_nanoseconds_are_read_right(tmp_path: Path) -> None:
    values = [0, 1, -1, None, 253402300799999999, -62135596800000000, 2**53]
    table, *_ = carry(int96(tmp_path / "a.parquet", values), tmp_path / "out", ["c"])
    assert (table.schema.field("c").type, exact(table["c"])) == (pa.timestamp("us"), values)


def test_old_timestamps_finer_than_a_microsecond_are_refused(tmp_path: Path) -> None:
    path = int96(tmp_path / "a.parquet", [0, 1000, None, 1001, 5], "ns")
    with pytest.raises(Exception, match=r"'c' holds timestamps finer than a microsecond"):
        carry(path, tmp_path / "out", ["c"])


@pytest.mark.parametrize("name", ["fixed list", "tensor"])
def test_fixed_lists_with_nulls_are_refused_before_anything_is_read(tmp_path: Path, name: str) -> None:
    kind = COLUMNS[name].type
    storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    array = pa.array([None, [1] * storage.list_size], storage)
    if storage is not kind:
        array = pa.ExtensionArray.from_storage(kind, array)
    pq.write_table(pa.table({"c": array, "id": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"'c' of .*a\.parquet is a fixed-size list with nulls"):
        carry(tmp_path / "a.parquet", tmp_path / "out", ["c"])
    assert carry(tmp_path / "a.parquet", tmp_path / "out", ["id"])[0].num_rows == 2


def test_fixed_lists_with_nulls_inside_others_are_no_corrupt_files(tmp_path: Path) -> None:
    kind = pa.struct([("v", pa.list_(pa.int32(), 2))])
    pq.write_table(pa.table({"c": pa.array([{"v": [1, 2]}, {"v": None}], kind)}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"cannot be read by pyarrow .*write the column another way") as raised:
        carry(tmp_path / "a.parquet", tmp_path / "out", ["c"])
    assert not isinstance(raised.value, CorruptFileError)


class Unknown(pa.ExtensionType):
    """A type that its reader has never heard of."""

    def __init__(self) -> None:
        super().__init__(pa.int64(), "somebody.unknown")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"parameters"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: Any, serialized: bytes) -> Unknown:
        return cls()


def test_an_extension_that_nobody_here_knows_keeps_its_name(tmp_path: Path) -> None:
    array = pa.ExtensionArray.from_storage(Unknown(), repeated([1, 2], pa.int64()))
    pq.write_table(pa.table({"c": array}), tmp_path / "a.parquet")
    table, parts, _ = carry(tmp_path / "a.parquet", tmp_path / "out", ["c"])
    assert exact(table["c"]) == exact(array)
    metadata = pq.read_schema(parts[0]).field("c").metadata
    assert metadata[b"ARROW:extension:name"] == b"somebody.unknown"


def test_nullability_and_metadata_of_a_column_are_carried(tmp_path: Path) -> None:
    field = pa.field("c", pa.int64(), nullable=False, metadata={"unit": "kg", "PARQUET:field_id": "7"})
    (path,) = written(tmp_path / "in", (field, pa.array(range(20))))
    _, parts, _ = carry(tmp_path / "in", tmp_path / "out", ["c"])
    assert {pq.read_schema(part).field("c") for part in parts} == {pq.read_schema(path).field("c")}
    assert pq.read_schema(parts[0]).field("c").metadata == pq.read_schema(path).field("c").metadata


def test_a_replica_carries_every_type_at_once(tmp_path: Path, write_table: WriteTable) -> None:
    names = [name for name in COLUMNS if name != "string of other bytes"]
    columns = {**{name: COLUMNS[name] for name in names}, "text": pa.array(["a movie"] * ROWS)}
    source = write_table(tmp_path / "a.parquet", columns=columns, row_group_size=23)
    planned = plan_source(SourceConfig(path=str(source), fragment_rows=FRAGMENT_ROWS), ["text", *names], 1024)
    model = located()
    task = ScoringTask(
        pools=(ReplicaSettings(family="text-embedding", model=model, backend="fake", artifact=model),),
        source="parquet",
        sink="parquet",
        columns={"text": "text"},
        columns_read=["text"],
        carried=pa.schema([planned.schema.field(name) for name in names]),
        output_url=str(tmp_path / "out"),
        fingerprint="f",
        on_error="raise",
        on_bad_file="raise",
    )
    run = [{"fragment": asdict(f), "part": planned.part_name(f.index)} for f in planned.fragments]
    receipts = json.loads(FragmentScorer(task)({"run": json.dumps(run)})["receipts"])
    assert sum(receipt["stats"]["rows_out"] for receipt in receipts) == ROWS
    before, after = by_pyarrow(source), by_pyarrow(*sorted((tmp_path / "out").glob("part-*.parquet")))
    for name in names:
        assert exact(after[name]) == exact(before[name]), name


SCALARS = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.int8(): st.integers(-128, 127),
    pa.float64(): st.floats(),
    pa.float32(): st.floats(width=32),
    pa.string(): st.text(max_size=8),
    pa.binary(): st.binary(max_size=8),
    pa.bool_(): st.booleans(),
    pa.date32(): st.dates(),
    pa.timestamp("us"): st.datetimes(),
    pa.decimal128(20, 3): st.decimals(-(10**16), 10**16, places=3),
}


@st.composite
def columns_of(draw: st.DrawFn, rows: int) -> pa.Array:
    kind = draw(st.sampled_from(list(SCALARS)))
    values: Any = SCALARS[kind]
    for shape in draw(st.lists(st.sampled_from(["list", "struct", "dictionary"]), max_size=2)):
        if shape == "dictionary" and not pa.types.is_nested(kind):
            continue
        inner = st.none() | values
        kind, values = (
            (pa.list_(kind), st.lists(inner, max_size=3))
            if shape == "list"
            else (pa.struct([("f", kind)]), st.fixed_dictionaries({"f": inner}))
        )
    return pa.array(draw(st.lists(st.none() | values, min_size=rows, max_size=rows)), kind)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(0, 30))
    names = draw(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=3, unique=True))
    return pa.table({name: draw(columns_of(rows)) for name in names})


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(table=tables(), group=st.integers(1, 12), codec=st.sampled_from(["none", "zstd"]), dictionary=st.booleans())
def test_any_table(
    tmp_path_factory: pytest.TempPathFactory, table: pa.Table, group: int, codec: str, dictionary: bool
) -> None:
    folder = tmp_path_factory.mktemp("any")
    source = folder / "a.parquet"
    pq.write_table(table, source, row_group_size=group, compression=codec, use_dictionary=dictionary)
    if not table.num_rows:
        assert len(plan_source(SourceConfig(path=str(source)), table.column_names, wanted_rows=9).fragments) == 0
        return
    read, parts, kept = carry(source, folder / "out", table.column_names)
    for name in table.column_names:
        assert exact(read[name]) == exact(table[name])
        after = list(itertools.chain.from_iterable(exact(by_pyarrow(part)[name]) for part in parts))
        assert after == [exact(table[name])[row] for row in kept]


def test_texts_of_other_bytes_survive_what_is_made_of_a_sample(tmp_path: Path) -> None:
    """They are drawn, told apart and identified like any row; what they are to a model, its family says."""
    from optinfer.data.sampling import digest, draw
    from optinfer.inference.dedupe import repeats

    odd = as_text([b"caf\xe9", b"\xed\xa0\x80", b"caf\xe9", b"ok"])
    pq.write_table(pa.table({"text": odd}), tmp_path / "a.parquet")
    planned = plan_source(SourceConfig(path=str(tmp_path)), ["text"], wanted_rows=64)
    sample = draw(planned.fragments, FragmentReader(["text"]), ["text"], 8, 0)
    assert len(digest(sample.gate)) == 16
    found = repeats(pa.table({"text": odd}))
    assert found is not None
    assert found.kind.tolist() == [0, 1, 0, 2]
