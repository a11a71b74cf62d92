"""How a part's columns are encoded: what repeats by dictionary, floats as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optinfer.data.fragments import Fragment
from optinfer.data.output import Output

ROWS = 64


def vectors(width: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(np.random.default_rng(0).random(ROWS * width, dtype=np.float32), width)


def write(folder: Path, column: Any) -> dict[str, bool]:
    """Commit a part with one column; return whether each of its Parquet columns has a dictionary."""
    output = Output(str(folder))
    table = pa.table({"column": column})
    output.commit("part-000000.parquet", Fragment(0, "a", 0, ROWS), "f1", "a1", table, None)
    assert pq.read_table(folder / "part-000000.parquet").column("column").to_pylist() == table["column"].to_pylist()
    group = pq.read_metadata(folder / "part-000000.parquet").row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    return {c.path_in_schema: c.has_dictionary_page for c in columns}


@pytest.mark.parametrize(
    ("column", "dictionaries"),
    [
        (["a", "b"] * (ROWS // 2), {"column": True}),
        ([0.5, 0.25] * (ROWS // 2), {"column": False}),
        (vectors(8), {"column.list.element": False}),
        ([["a", "b"]] * ROWS, {"column.list.element": True}),
        ([{"label": "a", "score": 0.5}] * ROWS, {"column.label": True, "column.score": False}),
        (
            pa.array([[("a", 0.5)]] * ROWS, pa.map_(pa.string(), pa.float32())),
            {"column.key_value.key": True, "column.key_value.value": False},
        ),
    ],
)
def test_all_but_floats_have_a_dictionary(tmp_path: Path, column: Any, dictionaries: dict[str, bool]) -> None:
    assert write(tmp_path, column) == dictionaries


def test_a_part_of_vectors_is_no_larger_than_its_vectors(tmp_path: Path) -> None:
    write(tmp_path, vectors(384))
    assert (tmp_path / "part-000000.parquet").stat().st_size < ROWS * 384 * 4 + 2000
