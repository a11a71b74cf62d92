"""Files of source and sink replaced, deleted, appended, cut and touched while a job runs, at seeded random moments.

Whatever happens: `_SUCCESS` stands over every planned row once, with the answers of the table that was planned, as
pyarrow and DuckDB read them; or the job ends with an error and there is no `_SUCCESS`. `make test` takes one moment of
each kind, `make soak-changes` twenty (`OPTINFER_MOMENTS`).
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import optinfer
from optinfer import errors
from optinfer.config import JobConfig
from tests.conftest import MakeJob, WriteTable
from tests.faults.changes import Calls, Place, foreign_parquet

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fake_variant", "without_ray")]

FILES, ROWS_A_FILE, BATCH = 4, 16, 4
CALLS = FILES * ROWS_A_FILE // BATCH
MOMENTS = range(int(os.environ.get("OPTINFER_MOMENTS", "1")))
# Other texts under the same ids: a row of these in the output has an answer to what was never planned.
OTHER_TEXTS = [f"another text {i}" for i in range(ROWS_A_FILE)]

Change = Callable[[Place, random.Random], None]


def _replaced(place: Place, name: str, **columns: list[str]) -> None:
    """Write a file anew, with other values in some columns."""
    table = pq.read_table(pa.BufferReader(place.read(name)))
    for column, values in columns.items():
        table = table.set_column(table.schema.get_field_index(column), column, pa.array(values[: table.num_rows]))
    out = pa.BufferOutputStream()
    pq.write_table(table, out)
    place.write(name, out.getvalue().to_pybytes())


def _any(place: Place, chance: random.Random) -> str | None:
    """Return one of the Parquet files that are there now."""
    names = [name for name in place.names() if name.endswith(".parquet")]
    return chance.choice(names) if names else None


def _with(change: Callable[[Place, str], None]) -> Change:
    """Make a change to one file out of one to whichever is there."""

    def act(place: Place, chance: random.Random) -> None:
        if name := _any(place, chance):
            change(place, name)

    return act


def _touch(place: Place, name: str) -> None:
    place.write(name, place.read(name))


SOURCE: dict[str, Change] = {
    "source replaced": _with(lambda place, name: _replaced(place, name, text=OTHER_TEXTS)),
    "source deleted": _with(lambda place, name: place.unlink(name)),
    "source appended": lambda place, chance: place.write("z.parquet", place.read("f0.parquet")),
    "source cut": _with(lambda place, name: place.cut(name, 300)),
    "source touched": _with(_touch),
}
SINK: dict[str, Change] = {
    "sink replaced": _with(lambda place, name: _replaced(place, name, id=["stranger"] * ROWS_A_FILE)),
    "sink deleted": _with(lambda place, name: place.unlink(name)),
    "sink appended": lambda place, chance: place.write("extra.parquet", foreign_parquet()),
    "sink cut": _with(lambda place, name: place.cut(name, 300)),
    "sink touched": _with(_touch),
    "sink removed": lambda place, chance: place.remove_all(chance.choice(["", "_optinfer"])),
}


@pytest.fixture(scope="module")
def _answers() -> dict[str, list[float]]:
    return {}


@pytest.fixture
def answers(
    _answers: dict[str, list[float]], tmp_path: Path, make_job: MakeJob, write_table: WriteTable
) -> dict[str, list[float]]:
    """Return what each planned row's answer is, by id, as a job says that nobody disturbs."""
    if not _answers:
        source = write_table(tmp_path / "all.parquet", rows=FILES * ROWS_A_FILE)
        optinfer.run(make_job(source, tmp_path / "undisturbed"))
        table = Place(str(tmp_path / "undisturbed")).table()
        _answers |= dict(zip(table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True))
    return _answers


@pytest.fixture(params=["local", "s3"])
def places(request: pytest.FixtureRequest, tmp_path: Path, write_table: WriteTable) -> tuple[Place, Place]:
    """Return a source of several files, and an empty sink."""
    root = request.getfixturevalue("bucket") if request.param == "s3" else str(tmp_path / "root")
    source, sink = Place(f"{root}/table"), Place(f"{root}/out")
    for i in range(FILES):
        written = write_table(tmp_path / "made.parquet", rows=ROWS_A_FILE, offset=i * ROWS_A_FILE)
        source.write(f"f{i}.parquet", written.read_bytes())
    return source, sink


def read_by_others(sink: Place) -> dict[str, list[float]]:
    """Return the rows of an output as pyarrow reads it, once it is sure that no id is there twice."""
    table = sink.table()
    ids = table["id"].to_pylist()
    if "file" in sink.fs.protocol:
        duck = duckdb.sql(f"select id from '{sink.root}/*.parquet'").fetchall()
        assert sorted(row[0] for row in duck) == sorted(ids)
    assert len(set(ids)) == len(ids)
    return dict(zip(ids, table["embedding"].to_pylist(), strict=True))


def error_of(job: JobConfig) -> errors.OptinferError | None:
    """Run a job; return the error it ends with."""
    try:
        optinfer.run(job)
    except errors.OptinferError as error:
        return error
    return None


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", [*SOURCE, *SINK])
def test_success_stands_only_over_every_planned_row_once(
    kind: str,
    moment: int,
    places: tuple[Place, Place],
    answers: dict[str, list[float]],
    make_job: MakeJob,
    calls: Calls,
) -> None:
    source, sink = places
    chance = random.Random(f"{kind} {moment}")
    change, place = ({**SOURCE, **SINK}[kind], source if kind in SOURCE else sink)
    calls.at(chance.randint(1, CALLS), lambda: change(place, chance))
    job = make_job(f"{source.url}/", sink.url, batching={"max_batch_size": BATCH})
    failed = error_of(job)
    assert not calls.acts, "the change was made"
    if failed is not None:
        assert failed.exit_code == 1, failed
        assert kind in SOURCE or kind == "sink appended", failed
        assert not {"_SUCCESS", "_manifest.json"} & set(sink.names())
        return
    assert "_SUCCESS" in sink.names()
    found = read_by_others(sink)
    assert found.keys() == answers.keys()
    for row, expected in answers.items():
        np.testing.assert_allclose(found[row], expected, atol=1e-6)
