"""A variant that was proved but does not load where it should score: the next takes over, and no output mixes two."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import optinfer
from optinfer.errors import LoadError
from tests.conftest import MakeJob, WriteTable, read_rows

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_ray", "fake_variant")]


@pytest.fixture
def source(tmp_path: Path, write_table: WriteTable) -> Path:
    return write_table(tmp_path / "table.parquet", rows=64)


def footers(folder: Path) -> set[str | None]:
    """Return the artifacts that made the parts of an output."""
    from optinfer.data.output import Output

    output = Output(str(folder))
    return {part.artifact for part in output.sink.read(sorted(output.sink.committed())) if part}


def test_the_next_variant_takes_over_before_a_row_is_scored_and_says_so(
    tmp_path: Path, meeting: Path, make_job: MakeJob, source: Path, faulty: Callable[..., str]
) -> None:
    (meeting / "refuse").touch()
    said: list[str] = []
    job = make_job(source, tmp_path / "out", variant=faulty(), gate__fallback="fake")
    record = optinfer.run(job, say=said.append)
    assert (record.variant, record.rows_out) == ("fake", 64)
    assert any("faulty does not score: a replica cannot load it" in line for line in said)
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    assert "no kernel for this device" in manifest["variants_not_chosen"]["faulty"]
    assert len(footers(tmp_path / "out")) == 1
    assert record.mlflow is not None
    assert record.mlflow.warning == ""


def test_without_another_variant_the_job_ends_with_the_reason(
    tmp_path: Path, meeting: Path, make_job: MakeJob, source: Path, faulty: Callable[..., str]
) -> None:
    (meeting / "refuse").touch()
    with pytest.raises(
        LoadError, match=r"cannot load the variant: .*RuntimeError: no kernel for this device"
    ) as caught:
        optinfer.run(make_job(source, tmp_path / "out", variant=faulty()))
    assert caught.value.exit_code == 4


def test_an_output_that_holds_rows_is_never_finished_by_another_variant(
    tmp_path: Path, meeting: Path, make_job: MakeJob, source: Path, faulty: Callable[..., str]
) -> None:
    out = tmp_path / "out"
    job = make_job(source, out, variant=faulty(), gate__fallback="fake")
    optinfer.run(job)
    for name in ("part-000002.parquet", "_manifest.json", "_SUCCESS"):
        (out / name).unlink()
    (meeting / "refuse").touch()
    with pytest.raises(LoadError):
        optinfer.run(job)
    (meeting / "refuse").unlink()
    assert optinfer.run(job).variant == "faulty"
    assert len(read_rows(out)) == 64
    assert len(footers(out)) == 1
