"""A trial is the job: what a part of a table was tried with is what the whole of it is scored with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import optinfer
from optinfer.commands.resolved import resolve
from tests.conftest import MakeJob, WriteTable

CHANGES: dict[str, dict[str, Any]] = {
    "a limit": {"source__limit": 40},
    "another sink": {"sink__path": "elsewhere"},
    "other columns": {"sink__columns": ["id", "section"]},
    "other fragments": {"source__fragment_rows": 7},
    "smaller fragments": {"source__fragment_mb": 0.001},
}


@pytest.fixture
def source(tmp_path: Path, write_table: WriteTable) -> Path:
    """Write a table of two files, several row groups each."""
    write_table(tmp_path / "t" / "a.parquet", rows=1100, row_group_size=300)
    write_table(tmp_path / "t" / "b.parquet", rows=150, offset=1100)
    return tmp_path / "t"


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_sample_is_the_tables_whatever_the_job_does_with_it(
    make_job: MakeJob, source: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    job = {"variant": "torch-fp32", "gate__sample_rows": 64, "sink__columns": [], "source__fragment_rows": "auto"}
    whole = resolve(make_job(source, tmp_path / "out", **job)).bench().sample
    trial = resolve(make_job(source, tmp_path / "out", **{**job, **change})).bench().sample
    assert trial.gate_digest == whole.gate_digest
    assert trial.calibration_digest == whole.calibration_digest
    drawn = set(whole.gate["text"].to_pylist())
    assert drawn & set(pq.read_table(source / "b.parquet")["text"].to_pylist()), "it is all of the table's"


def test_another_table_has_another_sample(
    make_job: MakeJob, source: Path, tmp_path: Path, write_table: WriteTable
) -> None:
    def digest() -> str:
        return (
            resolve(make_job(source, tmp_path / "out", variant="torch-fp32", gate__sample_rows=64))
            .bench()
            .sample.gate_digest
        )

    before = digest()
    write_table(source / "c.parquet", rows=200, offset=1300)
    assert digest() != before


@pytest.mark.slow
@pytest.mark.usefixtures("without_ray", "trials_here")
def test_the_whole_table_is_scored_with_what_its_trial_built_and_proved(
    make_job: MakeJob, write_table: WriteTable, tmp_path: Path
) -> None:
    source = write_table(tmp_path / "t.parquet", rows=120)
    said: list[str] = []

    def run(out: str, **changes: Any) -> Any:
        said.clear()
        return optinfer.run(make_job(source, tmp_path / out, variant="onnx-int8-qdq", **changes), say=said.append)

    trial = run("trial", source__limit=40)
    assert built(said), "the trial did it"
    whole = run("whole", sink__columns=["id", "section"])
    assert built(said) == []
    assert (trial.rows_out, whole.rows_out) == (40, 120)
    assert whole.certificate == trial.certificate


def built(said: list[str]) -> list[str]:
    return [line for line in said if line.startswith(("building", "certifying", "scoring 8 sample"))]
