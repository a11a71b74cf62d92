"""Rows without an answer: kept in place, or set aside and tried again, into the same output."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import optinfer
from optinfer.config import JobConfig
from optinfer.data.output import Output
from optinfer.errors import ConfigError, OutputConflictError, QuarantineError
from optinfer.execution.in_process import InProcess
from optinfer.execution.placement import Node
from optinfer.records.run import RunRecord
from tests.conftest import REPO, MakeJob, RunCli, read_rows

BAD = (3, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 60)  # one of the first, all but four of the second

pytestmark = pytest.mark.usefixtures("trials_here")


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Return a file that makes rows fail as long as it is there."""
    file = tmp_path / "broken"
    file.touch()
    return file


@pytest.fixture
def job(tmp_path: Path, make_job: MakeJob, broken: Path) -> Callable[..., JobConfig]:
    """Return a function to a job over 64 texts in 4 fragments, whose BAD rows raise while `broken` is there."""
    texts = ["x" * (500 + row if row in BAD else 1 + row) for row in range(64)]
    pq.write_table(pa.table({"id": [f"r{row}" for row in range(64)], "text": texts}), tmp_path / "table.parquet")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    model = {"path": str(tmp_path / "model"), "family": "custom", "class": "optinfer_custom:Mended"}

    def make(**changes: Any) -> JobConfig:
        return make_job(
            tmp_path / "table.parquet",
            tmp_path / "out",
            model={**model, "arguments": {"broken": str(broken)}},
            variant="torch-fp32",
            gate={"metric": "cosine", "min": 0.9, "sample_rows": 16},
            **{"sink__error_threshold": len(BAD), **changes},
        )

    return make


def run(job: JobConfig, **more: Any) -> RunRecord:
    return optinfer.run(job, executor=InProcess([Node(cpus=1)]), **more)


def answers(folder: Path) -> dict[str, tuple[float | None, str | None]]:
    return {row["id"]: (row["first"], row.get("_error")) for row in read_rows(folder)}


def ids(rows: Any) -> list[str]:
    return [f"r{row}" for row in rows]


def test_rows_that_were_quarantined_take_their_place_when_they_are_tried_again(
    job: Callable[..., JobConfig], tmp_path: Path, broken: Path
) -> None:
    out = tmp_path / "out"
    assert (run(job()).rows_quarantined, len(list((out / "_quarantine").iterdir()))) == (len(BAD), 3)
    before, untouched = answers(out), (out / "part-000002.parquet").stat().st_mtime_ns
    broken.unlink()
    record = run(job(), retry=True)
    assert (record.rows_in, record.rows_out, record.rows_quarantined) == (64, 64, 0)
    assert (record.status, record.rows_per_second) == ("done", None)
    after = answers(out)
    assert list(after) == ids(range(64)), "in the order of the source"
    assert {name: after[name] for name in before} == before
    assert not list((out / "_quarantine").iterdir())
    assert (out / "part-000002.parquet").stat().st_mtime_ns == untouched
    assert run(job()).status == "nothing to do"
    assert run(job(), retry=True).status == "nothing to do"
    shutil.rmtree(out)
    assert run(job()).rows_out == 64
    whole = answers(out)
    assert list(whole) == list(after)
    assert all(abs((whole[name][0] or 0) - (after[name][0] or 1)) < 1e-6 for name in whole), (
        "as if none had ever failed"
    )


def test_what_fails_again_stays_quarantined(job: Callable[..., JobConfig], tmp_path: Path, broken: Path) -> None:
    run(job())
    broken.write_text("520")  # only texts of so many characters
    record = run(job(), retry=True)
    assert (record.rows_out, record.rows_quarantined) == (63, 1)
    (kept,) = (tmp_path / "out" / "_quarantine").iterdir()
    assert pq.read_table(kept).select(["id", "_row"]).to_pylist() == [{"id": "r20", "_row": 20}]
    assert list(answers(tmp_path / "out")) == ids(row for row in range(64) if row != 20)
    assert run(job()).status == "nothing to do"


_KILLED = """
import json, os, signal, sys
import optinfer
from optinfer.execution.placement import Node
from optinfer.job_file import parse_job

class Killed(optinfer.InProcess):
    def stream(self, *given):
        for _ in super().stream(*given):  # a part has taken the place of another, and nobody has counted it
            os.kill(os.getpid(), signal.SIGKILL)

optinfer.run(parse_job(json.loads(sys.argv[1])), executor=Killed([Node(cpus=1)]), retry=True)
"""


@pytest.mark.parametrize("retry", [True, False])
def test_a_retry_that_is_killed_is_ended_by_the_same_command_or_by_run(
    job: Callable[..., JobConfig], tmp_path: Path, broken: Path, retry: bool
) -> None:
    run(job())
    broken.unlink()
    given = job().model_dump(mode="json", exclude={"notify"})
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, json.dumps(given)], cwd=REPO, capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    record = run(job(), retry=retry)
    assert (record.rows_in, record.rows_quarantined) == (64, 0 if retry else 13), "the first fragment was mended"
    assert record.fragments_resumed == (2 if retry else 4), "what was put in its place is not scored again"
    assert list(answers(tmp_path / "out")) == ids(row for row in range(64) if retry or row == 3 or row not in BAD)
    assert len(list((tmp_path / "out" / "_quarantine").iterdir())) == (0 if retry else 2)
    assert run(job()).status == "nothing to do"


def test_the_folder_of_a_finished_job_says_which_job_it_is_of(
    job: Callable[..., JobConfig], tmp_path: Path, broken: Path, run_cli: RunCli
) -> None:
    run(job())
    broken.unlink()
    code, printed, said = run_cli("retry-quarantine", tmp_path / "out", "--json", executor=InProcess([Node(cpus=1)]))
    assert (code, json.loads(printed)["rows_out"]) == (0, 64), said
    (tmp_path / "out" / "_SUCCESS").unlink()
    code, _, said = run_cli("retry-quarantine", tmp_path / "out", executor=InProcess([Node(cpus=1)]))
    assert (code, "give the job file instead" in said) == (2, True)


def test_another_model_does_not_score_them(job: Callable[..., JobConfig], tmp_path: Path) -> None:
    run(job())
    (tmp_path / "model" / "config.json").write_text('{"a": 1}')
    with pytest.raises(OutputConflictError, match=r"model\.digest"):
        run(job(), retry=True)
    assert (tmp_path / "out" / "_SUCCESS").exists()


def test_a_table_that_keeps_versions_is_left_as_it_is(job: Callable[..., JobConfig], tmp_path: Path) -> None:
    pytest.importorskip("deltalake")
    run(job(sink__format="delta"))
    with pytest.raises(ConfigError, match="never written again"):
        run(job(sink__format="delta"), retry=True)
    assert (tmp_path / "out" / "_SUCCESS").exists()


def test_rows_keep_their_place_with_the_reason_beside_them(
    job: Callable[..., JobConfig], tmp_path: Path, broken: Path
) -> None:
    record = run(job(sink__on_error="column"))
    assert (record.rows_in, record.rows_out, record.rows_quarantined) == (64, 50, len(BAD))
    found = answers(tmp_path / "out")
    assert list(found) == ids(range(64))
    assert [name for name, (first, _) in found.items() if first is None] == ids(BAD)
    assert {why for first, why in found.values() if first is None} == {"ValueError: not yet"}
    assert all(why is None for first, why in found.values() if first is not None)
    assert not (tmp_path / "out" / "_quarantine").exists()
    parts = [
        part for part in Output(str(tmp_path / "out")).sink.read([f"part-00000{i}.parquet" for i in range(4)]) if part
    ]
    assert [(part.rows_out, part.rows_in_place, part.rows_quarantined) for part in parts] == [
        (15, 1, 1),
        (4, 12, 12),
        (16, 0, 0),
        (15, 1, 1),
    ]
    assert run(job(sink__on_error="column")).status == "nothing to do"
    broken.unlink()
    assert run(job(sink__on_error="column"), retry=True).rows_out == 64
    mended = answers(tmp_path / "out")
    assert list(mended) == ids(range(64))
    assert {why for _, why in mended.values()} == {None}
    assert all(mended[name] == given for name, given in found.items() if given[0] is not None)


def test_rows_in_place_are_no_other_output_than_the_one_begun(job: Callable[..., JobConfig]) -> None:
    run(job())
    with pytest.raises(OutputConflictError, match=r"sink\.on_error"):
        run(job(sink__on_error="column"))


def test_rows_in_place_are_counted_against_the_threshold_and_a_higher_one_goes_on(
    job: Callable[..., JobConfig], tmp_path: Path
) -> None:
    with pytest.raises(QuarantineError, match=r"13 rows are quarantined.*\(?see column _error of"):
        run(job(sink__on_error="column", sink__error_threshold=2))
    committed = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("part-*")}
    assert sorted(committed) == ["part-000000.parquet", "part-000001.parquet"], "the rest of the night is not wasted"
    with pytest.raises(QuarantineError):
        run(job(sink__on_error="column", sink__error_threshold=2))
    assert len(list((tmp_path / "out").glob("part-*"))) == 2, "nor is the next one"
    record = run(job(sink__on_error="column"))
    assert (record.fragments_resumed, record.rows_out, record.rows_quarantined) == (2, 50, len(BAD))
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == stamp for name, stamp in committed.items())
