"""A job that is killed at any step of its table's commit and started again leaves one version with every row once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from tests.conftest import REPO, WriteJob, WriteTable

ROWS = 20_000


@pytest.fixture(scope="module")
def ids() -> list[str]:
    return [f"r{i:05d}" for i in range(ROWS)]


@pytest.mark.parametrize("moment", ["before", "during", "after"])
def test_a_commit_that_was_killed_is_in_the_log_once(
    tmp_path: Path, write_table: WriteTable, write_job: WriteJob, ids: list[str], moment: str
) -> None:
    columns = {"id": pa.array(ids), "text": pa.array([f"text {i % 50}" for i in range(ROWS)])}
    source, sink = write_table(tmp_path / "table.parquet", columns=columns), tmp_path / "out"
    job = write_job(source, sink, sink__format="delta", source__fragment_rows=2000)
    command = [sys.executable, "-m", "tests.faults.delta_commit", str(job)]
    killed = subprocess.run([*command, moment], cwd=REPO, capture_output=True, text=True, timeout=240)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (sink / "_SUCCESS").exists()
    ended = subprocess.run([*command, "never"], cwd=REPO, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    assert (sink / "_SUCCESS").exists()
    table = DeltaTable(sink)
    log = [path.name for path in (sink / "_delta_log").glob("*.json")]
    assert (table.version(), log) == (0, [f"{0:020d}.json"])
    assert sorted(table.to_pyarrow_table(columns=["id"])["id"].to_pylist()) == ids
    assert sorted(pl.read_delta(str(sink), columns=["id"])["id"].to_list()) == ids
    of_the_log = [str(sink / name) for name in pa.table(table.get_add_actions())["path"].to_pylist()]
    counted = duckdb.sql(f"SELECT count(*), count(DISTINCT id), min(id), max(id) FROM read_parquet({of_the_log})")
    assert counted.fetchall() == [(ROWS, ROWS, ids[0], ids[-1])]
