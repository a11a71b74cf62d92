"""One listing with sizes, held against what was committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optinfer.data.account import SCHEMA
from optinfer.data.output_listing import ABSENT, Listing, differences, few, listed, written_again
from optinfer.data.state import parquet_bytes
from optinfer.data.storage import Folder, file_system
from tests.data.flaky_store import FlakyStore

NONE = pa.table({"file": pa.array([], pa.string()), "bytes": pa.array([], pa.int64())})


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(f"{request.getfixturevalue('bucket')}/out" if request.param == "s3" else str(tmp_path / "out"))


def accounts(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([{name: row.get(name) for name in SCHEMA.names} for row in rows], schema=SCHEMA)


def test_a_folder_that_is_not_there_holds_nothing(folder: Folder) -> None:
    found = listed(folder, 3)
    assert (found.sizes.tolist(), found.quarantined.num_rows, found.foreign) == ([ABSENT] * 3, 0, ())


def test_parts_are_told_from_what_is_not_of_the_plan(folder: Folder) -> None:
    for name in ("part-000000.parquet", "part-000002.parquet", "part-000003.parquet", "part-0000001.parquet",
                 "a.pq", "year=1/b.PARQUET", "year=1/deep/c.parq", "_old/d.parquet", ".e/f.parquet", "notes.txt",
                 "_manifest.json", "_optinfer/plan.parquet"):  # fmt: skip
        folder.put(name, name.encode())
    found = listed(folder, 3)
    assert found.sizes.tolist() == [19, ABSENT, 19]
    assert found.fragments.tolist() == [0, 2]
    assert found.foreign == (
        "a.pq", "part-0000001.parquet", "part-000003.parquet", "year=1/b.PARQUET", "year=1/deep/c.parq",
    )  # fmt: skip


def test_what_pyarrow_reads_whatever_its_name_is_not_of_the_plan(folder: Folder) -> None:
    """Its datasets take every name but those that begin with `_` or `.`: the copy of a part would be its rows twice."""
    rows = parquet_bytes(pa.table({"id": [1]}))
    copies = ("copy/part-000000", "part-000000", "part-000000.parquet.bak", "part-000000.parquet~")
    hidden = (".part-000000.parquet.tmp", "_part-000000.bak", "_old/part-000000", ".old/part-000000")
    for name in ("part-000000.parquet", *copies, *hidden):
        folder.put(name, rows)
    for name, data in (("empty", b""), ("short", b"PAR1"), ("notes.txt", b"what PAR1 is at the end of")):
        folder.put(name, data)
    assert listed(folder, 1).foreign == copies
    for name in ("empty", "short", "notes.txt"):  # these it refuses to read
        folder.delete(name)
    fs, root = file_system(folder.url)
    assert pads.dataset(root, format="parquet", filesystem=fs).count_rows() == 1 + len(copies)


def test_s3_is_listed_page_by_page(bucket: str, flaky: FlakyStore) -> None:
    folder = Folder(f"{bucket}/out")
    for i in range(5):
        folder.put(f"part-{i:06d}.parquet", b"x" * i)
    flaky.asked.clear()
    found = {entry.name: entry.size for entry in folder.entries(page=2)}
    assert found == {f"part-{i:06d}.parquet": i for i in range(5)}
    assert ["list-type=2" in path for _, path in flaky.asked] == [True] * 3
    assert folder.names(r"part-.*") == [f"part-{i:06d}.parquet" for i in range(5)]


def test_a_listing_shows_whether_a_file_was_written_again(folder: Folder) -> None:
    stamps = {i: folder.create(f"part-{i:06d}.parquet", b"content") for i in range(3)}
    assert folder.create("part-000000.parquet", b"CONTENT") is None
    told = accounts(*({"fragment": i, "bytes": 7, "stamp": stamps[i]} for i in range(3)))
    assert written_again(listed(folder, 3), told).tolist() == []
    folder.put("part-000001.parquet", b"CONTENT")
    folder.put("part-000002.parquet", b"shorter"[:6])
    assert written_again(listed(folder, 3), told).tolist() == [1]
    assert (
        written_again(
            listed(folder, 3), told.set_column(SCHEMA.get_field_index("stamp"), "stamp", pa.nulls(3, pa.int64()))
        ).tolist()
        == []
    )


def test_each_kind_of_difference_is_named() -> None:
    files = {"file": ["_quarantine/q1", "_quarantine/part-000009-0123456789ab.parquet"], "bytes": [7, 1]}
    listing = Listing(np.array([10, ABSENT, 12, 13, 0, 15]), np.zeros(6), pa.table(files), ("x.parquet",))
    found = differences(
        listing,
        accounts(
            {"fragment": 0, "bytes": 10, "quarantine_file": "_quarantine/q1", "quarantine_bytes": 8},
            {"fragment": 1, "bytes": 11},
            {"fragment": 2, "bytes": 99},
            {"fragment": 3, "bytes": 13},
            {"fragment": 4},
            {"fragment": 5, "quarantine_file": "_quarantine/q2"},
        ),
        6,
    )
    assert found.lost.tolist() == [0, 1, 2, 4, 5]
    assert found.named() == (
        "part-000000.parquet is there, but its quarantine file is not as written: _quarantine/q1 has 7 bytes, "
        "8 were written",
        "part-000001.parquet is missing",
        "part-000002.parquet has 12 bytes, 99 were written",
        "part-000004.parquet has 0 bytes",
        "part-000005.parquet is there, but its quarantine file is not as written: _quarantine/q2 is missing",
        "_quarantine/part-000009-0123456789ab.parquet is named by no part",
        "x.parquet is not of this output",
    )


def test_very_many_differences_are_counted() -> None:
    lines = tuple(f"part {i}" for i in range(1_000))
    assert few(lines)[-1] == "and 990 more"
    assert len(few(lines)) == 11
    assert few(lines[:10]) == lines[:10]


@given(st.lists(st.tuples(st.none() | st.integers(0, 3), st.none() | st.integers(1, 3)), min_size=1, max_size=30))
def test_a_fragment_is_lost_unless_its_part_has_the_committed_size(pairs: list[tuple[int | None, int | None]]) -> None:
    sizes = np.array([ABSENT if there is None else there for there, _ in pairs])
    told = accounts(*({"fragment": i, "bytes": wanted} for i, (_, wanted) in enumerate(pairs)))
    found = differences(Listing(sizes, np.zeros(len(pairs)), NONE, ()), told, len(pairs))
    assert found.lost.tolist() == [
        i for i, (there, wanted) in enumerate(pairs) if (not there if wanted is None else there != wanted)
    ]
    assert len(found.reasons) == len(found.lost)
