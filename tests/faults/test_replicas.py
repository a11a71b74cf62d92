"""Replicas that die: replaced, never waited for, and never a row lost or scored twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import optinfer
from optinfer.config import JobConfig
from optinfer.errors import LoadError
from optinfer.records.run import RunRecord
from tests.conftest import MakeJob, WriteTable, read_rows, wait_until
from tests.plugins.optinfer_custom import Poison

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_ray")]


def test_a_replica_that_dies_is_replaced(
    tmp_path: Path, meeting: Path, make_job: MakeJob, write_table: WriteTable, faulty: Callable[..., str]
) -> None:
    (meeting / "die").touch()
    source = write_table(tmp_path / "table.parquet", rows=64)
    record = optinfer.run(make_job(source, tmp_path / "out", variant=faulty(die_once=True)))
    assert not (meeting / "die").exists()
    assert (record.rows_in, record.rows_out, record.rows_quarantined) == (64, 64, 0)
    assert len({row["id"] for row in read_rows(tmp_path / "out")}) == 64


@pytest.mark.cluster
def test_a_row_that_kills_every_replica_is_quarantined_and_the_job_ends(
    tmp_path: Path, make_job: MakeJob, write_table: WriteTable, faulty: Callable[..., str]
) -> None:
    texts = ["short"] * 40
    texts[20] = "deadly " * 100
    source = write_table(tmp_path / "table.parquet", columns={"id": [f"r{i}" for i in range(40)], "text": texts})
    job = make_job(source, tmp_path / "out", variant=faulty(die_at_width=100), sink__error_threshold=1)
    record = optinfer.run(job)
    assert (record.rows_out, record.rows_quarantined) == (39, 1)
    assert [row["id"] for row in read_rows(tmp_path / "out")] == [f"r{i}" for i in range(40) if i != 20]


def custom_job(make_job: MakeJob, source: Path, sink: Path, name: str, **arguments: int) -> JobConfig:
    model = {"path": str(source.parent / "model"), "family": "custom", "class": f"optinfer_custom:{name}"}
    (source.parent / "model").mkdir(exist_ok=True)
    (source.parent / "model" / "config.json").write_text("{}")
    gate = {"metric": "cosine", "min": 0.9, "sample_rows": 40}
    return make_job(
        source, sink, model={**model, "arguments": arguments}, variant="torch-fp32", gate=gate, sink__error_threshold=3
    )


def test_rows_of_the_sample_that_kill_or_raise_end_neither_the_proof_nor_the_job(
    tmp_path: Path, make_job: MakeJob, write_table: WriteTable
) -> None:
    texts = ["x" * (i + 1) for i in range(40)]
    texts[17], texts[18], texts[30] = "y" * 300, "z" * 200, "w" * 200  # next to one another, and elsewhere
    source = write_table(tmp_path / "table.parquet", columns={"id": [f"r{i}" for i in range(40)], "text": texts})
    said: list[str] = []
    job = custom_job(make_job, source, tmp_path / "out", "Deadly", deadly=300, raising=200)
    record = optinfer.run(job, say=said.append)
    assert (record.rows_out, record.rows_quarantined) == (37, 3)
    assert [row["id"] for row in read_rows(tmp_path / "out")] == [f"r{i}" for i in range(40) if i not in (17, 18, 30)]
    assert any("rows of the sample cannot be scored" in line and "SIGKILL" in line for line in said)


def test_a_class_whose_postprocess_is_wrong_is_refused_before_a_row_is_scored(
    tmp_path: Path, make_job: MakeJob, write_table: WriteTable
) -> None:
    source = write_table(tmp_path / "table.parquet", rows=64)
    with pytest.raises(LoadError, match=r"postprocess gives \d+ rows for the answers to \d+") as refused:
        optinfer.run(custom_job(make_job, source, tmp_path / "out", "Short"))
    assert refused.value.exit_code == 4
    assert not list((tmp_path / "out").glob("part-*"))
    assert not (tmp_path / "out" / "_optinfer" / "attempts").exists()


def test_a_part_that_goes_while_replicas_score_is_made_again_in_their_place(
    tmp_path: Path, make_job: MakeJob, write_table: WriteTable, fake_variant: str
) -> None:
    source, part = write_table(tmp_path / "table.parquet", rows=160), tmp_path / "out" / "part-000000.parquet"

    def remove() -> None:
        wait_until(part.exists, "the first part")
        part.unlink()

    remover = threading.Thread(target=remove)
    remover.start()
    said: list[str] = []
    record = optinfer.run(make_job(source, tmp_path / "out", variant=fake_variant), say=said.append)
    remover.join()
    assert (record.rows_in, record.rows_out, record.fragments_scored_again) == (160, 160, 1)
    assert len({row["id"] for row in read_rows(tmp_path / "out")}) == 160
    assert any(line.startswith("warning: part-000000.parquet is missing") for line in said)


KILLERS = {
    Poison.SEGFAULT: "SIGSEGV",
    Poison.KILL: "SIGKILL",
    Poison.HANG: "no answer within 5 s",
    Poison.EXIT: "SystemExit: 3",
}


def poisoned_job(
    make_job: MakeJob, folder: Path, rows: int, poison: dict[int, int], fragment_rows: int, sample_rows: int = 64
) -> JobConfig:
    """Return a job over texts of which those in `poison` have a deadly length (see plugins/optinfer_custom.py)."""
    texts = ["x" * poison.get(row, 1 + row % 800) for row in range(rows)]
    pq.write_table(pa.table({"id": [f"r{row}" for row in range(rows)], "text": texts}), folder / "table.parquet")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    arguments = {"loads": str(folder / "loads")}
    model = {"path": str(folder / "model"), "family": "custom", "class": "optinfer_custom:Poison"}
    return make_job(
        folder / "table.parquet",
        folder / "out",
        model={**model, "arguments": arguments},
        variant="torch-fp32",
        gate={"metric": "cosine", "min": 0.9, "sample_rows": sample_rows},
        source__fragment_rows=fragment_rows,
        batching={"timeout": 5, "max_batch_size": 64, "dedupe": False},
        sink__error_threshold=len(poison),
    )


def require_just_these(record: RunRecord, folder: Path, rows: int, poison: dict[int, int]) -> None:
    """Hold an output against what was asked: each poisonous row quarantined with its reason, each other row once."""
    assert (record.rows_in, record.rows_out, record.rows_quarantined) == (rows, rows - len(poison), len(poison))
    assert [row["id"] for row in read_rows(folder / "out")] == [f"r{row}" for row in range(rows) if row not in poison]
    kept = pa.concat_tables(pq.read_table(file) for file in sorted((folder / "out" / "_quarantine").iterdir()))
    reasons = dict(zip(kept.column("_row").to_pylist(), kept.column("_reason").to_pylist(), strict=True))
    assert reasons.keys() == poison.keys()
    for row, kind in poison.items():
        assert KILLERS.get(kind, "ValueError: no such text") in reasons[row]


def test_each_kind_of_poison_is_quarantined_with_its_reason_and_the_job_ends(tmp_path: Path, make_job: MakeJob) -> None:
    """Side by side in one micro-batch, and some in the gate's sample; the one that hangs keeps the GIL."""
    poison = dict(enumerate([*KILLERS, Poison.RAISE, Poison.RAISE], 100))
    said: list[str] = []
    record = optinfer.run(poisoned_job(make_job, tmp_path, 192, poison, 64), say=said.append)
    require_just_these(record, tmp_path, 192, poison)
    assert any("rows of the sample cannot be scored" in line for line in said)


@pytest.mark.cluster
def test_poison_among_ten_thousand_rows_costs_bounded_time(tmp_path: Path, make_job: MakeJob) -> None:
    """Four that end a replica or never end, and 20 that raise: side by side, far apart, and in the gate's sample."""
    places = [4000, 4001, 4002, 4003, 4005, *range(17, 10_000, 500)][:24]
    poison = dict(zip(places, [*KILLERS, *[Poison.RAISE] * 20], strict=True))
    said: list[str] = []
    record = optinfer.run(poisoned_job(make_job, tmp_path, 10_000, poison, 1024, sample_rows=2048), say=said.append)
    assert any("rows of the sample cannot be scored" in line for line in said)
    require_just_these(record, tmp_path, 10_000, poison)
    # What they cost: their fragment twice, a load of the model for each that ends a process, and three limits of 5 s for
    # the one that never does; the same again where the sample holds them.
    assert len((tmp_path / "loads").read_bytes()) < 40
