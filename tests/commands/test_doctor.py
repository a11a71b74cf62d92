"""Each check is ok or says the fix, and one that fails stops no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from optinfer.commands.doctor import examine
from optinfer.records.machine import Check
from tests.conftest import MakeJob, RunCli, WriteTable, everything_under


def details(checks: list[Check]) -> dict[str, str]:
    return {check.name: f"{check.ok} {check.detail}" for check in checks}


def test_a_fit_machine_is_ok_and_left_as_it_was(tmp_path: Path, make_job: MakeJob, write_table: WriteTable) -> None:
    job = make_job(write_table(tmp_path / "t.parquet"), tmp_path / "out", variant="onnx-fp32")
    found = details(examine(None, job))
    assert all(line.startswith("True") for line in found.values()), found
    assert "40 rows in 1 files" in found["source+model"]
    assert everything_under(tmp_path / "out") == []


def test_every_fault_is_named_with_its_fix(
    tmp_path: Path, make_job: MakeJob, write_table: WriteTable, free_port: int
) -> None:
    (tmp_path / "file").touch()
    table = write_table(tmp_path / "t.parquet")
    uri = f"http://127.0.0.1:{free_port}"
    job = make_job(table, tmp_path / "file" / "out", variant="onnx-fp23", tracking__uri=uri)
    found = details(examine(f"127.0.0.1:{free_port}", job))
    assert found["ray"].startswith("False cannot connect to Ray at")
    assert "jobs run without it" in found["mlflow"]
    assert "did you mean 'onnx-fp32'" in found["source+model"]
    assert found["sink"].startswith("False cannot use")
    assert found["python"].startswith("True")


def test_the_command_fails_when_a_check_does(run_cli: RunCli, free_port: int) -> None:
    code, out, _ = run_cli("doctor", "--address", f"127.0.0.1:{free_port}", "--json")
    assert code == 1
    assert [c["name"] for c in json.loads(out) if not c["ok"]] == ["ray"]


def test_a_job_at_an_address_nobody_listens_on_ends_at_once(
    tmp_path: Path,
    run_cli: RunCli,
    write_job: Callable[..., Path],
    write_table: WriteTable,
    free_port: int,
    fake_variant: str,
) -> None:
    job = write_job(write_table(tmp_path / "t.parquet"), tmp_path / "out")
    code, _, err = run_cli("run", job, "--address", f"127.0.0.1:{free_port}")
    assert code == 1
    assert "check --address" in err
