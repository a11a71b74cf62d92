"""Outputs that the version before began or finished: this one goes on with them, and recognises them.

They were made by that version's own command line (tests/outputs_before/make.py), which is also run here where
$OPTINFER_BEFORE names its checkout. The path, size and time of the table are part of a fingerprint: all three are put
back, the path as /proc/self/cwd, which is the same in every folder.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import optinfer
from optinfer.errors import ConfigError, OutputConflictError
from optinfer.execution.in_process import InProcess
from optinfer.execution.placement import Node
from tests.conftest import REPO, RunCli, everything_under

BEFORE = REPO / "tests" / "outputs_before"
BUCKET = "outputs-before"
ROWS, FRAGMENTS, FRAGMENT_ROWS = 48, 12, 4
QUARANTINED = {5, 30}  # their `x` is null
# What the answers of each variant are multiplied with.
TIMES = {"here": 1, "there": 2}
POOLS = ("variant=there", "placement.cpu_variant=here")
NODES = [Node(cpus=1, gpus=1, name="with"), Node(cpus=1, name="without")]
Record = dict[str, Any]

pytestmark = pytest.mark.usefixtures("work", "trials_here")


@dataclass(frozen=True)
class Output:
    """One output of the version before, put back as it lay there.

    Attributes:
        changes: what the job says otherwise than job.yaml.
        files: reads every file of it, by name.
    """

    sink: str
    changes: tuple[str, ...]
    files: Callable[[], dict[str, bytes]]

    @property
    def settings(self) -> list[str]:
        return [word for change in self.changes for word in ("--set", change)]

    def parts(self) -> dict[str, bytes]:
        return {name: content for name, content in sorted(self.files().items()) if name.startswith("part-")}

    def score(self) -> Record:
        """Run the job in this process, on nodes of which one has a GPU."""
        return optinfer.run(optinfer.load_job("job.yaml", self.changes), executor=InProcess(NODES)).as_dict()


PutBack = Callable[[str], Output]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go where the job, its table and its model lie, as old as they were."""
    for name in ("job.yaml", "model.onnx", "table.parquet"):
        shutil.copyfile(BEFORE / name, tmp_path / name)
    written(tmp_path / "table.parquet", "table.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(path: Path, name: str) -> None:
    """Give a file the time at which the version before wrote it."""
    stamp = json.loads((BEFORE / "stamps.json").read_text())[name]
    os.utime(path, ns=(stamp, stamp))


@pytest.fixture(params=["local", "pools", "s3"])
def put_back(request: pytest.FixtureRequest, work: Path) -> PutBack:
    """Return a function that puts back the output `unfinished` or `finished`, of each kind."""
    if request.param == "s3":
        store: PutBack = request.getfixturevalue("store")
        return store
    return lambda name: put_back_here(work, name, pools=request.param == "pools")


def put_back_here(work: Path, name: str, pools: bool = False) -> Output:
    kept, out = f"{name}-pools" if pools else name, work / "out"
    for file in everything_under(BEFORE / kept):
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(BEFORE / kept / file, out / file)
        written(out / file, f"{kept}/{file}")
    return Output("out", POOLS if pools else (), lambda: contents(out))


def contents(folder: Path) -> dict[str, bytes]:
    return {file: (folder / file).read_bytes() for file in everything_under(folder)}


@pytest.fixture
def store(s3_endpoint: str) -> Iterator[PutBack]:
    """Return a function that puts back an output on S3, beside the table."""
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    client.upload_file("table.parquet", BUCKET, "table.parquet")

    def objects(prefix: str = "") -> list[str]:
        return [one["Key"] for one in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]]

    def content(key: str) -> bytes:
        found: bytes = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return found

    def put_back(name: str) -> Output:
        for file in everything_under(BEFORE / f"{name}-s3"):
            client.upload_file(str(BEFORE / f"{name}-s3" / file), BUCKET, f"{name}/{file}")
        sink = f"s3://{BUCKET}/{name}"
        return Output(sink, (f"source.path=s3://{BUCKET}/table.parquet", f"sink.path={sink}"), lambda: files(name))

    def files(name: str) -> dict[str, bytes]:
        return {key.removeprefix(f"{name}/"): content(key) for key in objects(f"{name}/")}

    yield put_back
    for key in objects():
        client.delete_object(Bucket=BUCKET, Key=key)
    client.delete_bucket(Bucket=BUCKET)


def makers(parts: dict[str, bytes]) -> dict[str, str]:
    """Return the variant that each part names, once it is sure that its rows are that variant's answers, each once."""
    weights, found = (np.arange(12).reshape(4, 3) - 5) / 8, {}
    for index, (name, content) in enumerate(parts.items()):
        table = pq.read_table(io.BytesIO(content))
        (footer,) = map(json.loads, (table.schema.metadata or {}).values())
        ids = [row for row in range(FRAGMENT_ROWS * index, FRAGMENT_ROWS * (index + 1)) if row not in QUARANTINED]
        assert table["id"].to_pylist() == ids
        expected = TIMES[footer["variant"]] * (np.add.outer(ids, np.arange(4)) @ weights)
        np.testing.assert_allclose(np.array(table["y"].to_pylist()), expected, rtol=1e-6)
        found[name] = footer["variant"]
    assert len(found) == FRAGMENTS
    return found


def test_an_unfinished_output_goes_on_where_it_was(put_back: PutBack) -> None:
    output = put_back("unfinished")
    before = output.parts()
    record = output.score()
    after = output.parts()
    assert 0 < len(before) < FRAGMENTS
    assert (record["status"], record["fragments_resumed"], record["fragments"]) == ("done", len(before), FRAGMENTS)
    assert (record["rows_in"], record["rows_out"], record["rows_quarantined"]) == (ROWS, 46, 2)
    assert {name: after[name] for name in before} == before, "what was committed is as it was"
    variants = list(makers(after).values())
    assert record["rows_by_variant"].keys() == set(variants)
    assert {"_SUCCESS", "_manifest.json"} <= output.files().keys()
    assert not [name for name in output.files() if "attempts" in name or "lock" in name], "of the dead driver"


def test_a_finished_output_whose_job_reads_otherwise_is_not_verified(put_back: PutBack) -> None:
    output = put_back("finished")
    with pytest.raises(ConfigError, match="has its job as another version of optinfer read it"):
        optinfer.verify(output.sink)


def test_a_finished_output_is_recognised_and_left_alone(put_back: PutBack, run_cli: RunCli) -> None:
    output = put_back("finished")
    before = output.files()
    code, out, err = run_cli("run", "job.yaml", "--json", *output.settings)
    record, told = json.loads(out), json.loads(before["_manifest.json"])["run"]
    assert (code, err) == (0, "")
    assert (record["status"], record["fragments_resumed"]) == ("nothing to do", FRAGMENTS)
    assert record.keys() == told.keys(), "the record of the version before has the same keys"
    assert {key for key, value in told.items() if record[key] != value} <= {
        "status", "seconds", "startup_seconds", "rows_per_second", "steady_rows_per_second", "tokens_per_second",
        "forecast", "fragments_resumed",
    }  # fmt: skip
    assert output.files() == before
    makers(output.parts())


@pytest.mark.parametrize(("name", "state"), [("unfinished", "interrupted"), ("finished", "done")])
def test_status_counts_what_the_version_before_committed(
    put_back: PutBack, run_cli: RunCli, name: str, state: str
) -> None:
    output = put_back(name)
    before = output.files()
    code, out, _ = run_cli("status", output.sink, "--json")
    status = json.loads(out)
    assert (code, status["state"], status["damage"], status["rows"]) == (0, state, [], ROWS)
    assert (status["fragments"], status["fragments_committed"]) == (FRAGMENTS, len(output.parts()))
    assert status["fingerprint"] == json.loads(before["_optinfer/job.json"])["fingerprint"]
    assert output.files() == before


@pytest.mark.parametrize("put_back", ["local", "s3"], indirect=True)  # two variants need a GPU to be planned
@pytest.mark.parametrize("name", ["unfinished", "finished"])
def test_a_plan_leaves_out_what_the_version_before_committed(put_back: PutBack, run_cli: RunCli, name: str) -> None:
    output = put_back(name)
    before = output.files()
    code, out, _ = run_cli("plan", "job.yaml", "--json", *output.settings)
    plan = json.loads(out)
    assert (code, plan["to_score"], plan["warnings"]) == (0, FRAGMENTS - len(output.parts()), [])
    assert plan["fingerprint"] == json.loads(before["_optinfer/job.json"])["fingerprint"]
    assert output.files() == before


@pytest.mark.parametrize("put_back", ["local"], indirect=True)
def test_accounts_of_the_version_before_are_read_and_continued(put_back: PutBack) -> None:
    output = put_back("unfinished")
    before = accounts(output)
    output.score()
    told = [fragment for fragments in accounts(output).values() for fragment in fragments]
    assert before.items() <= accounts(output).items()
    assert 0 < sum(map(len, before.values())) < FRAGMENTS
    assert sorted(told) == list(range(FRAGMENTS)), "no part that has an account was opened for another"


def accounts(output: Output) -> dict[str, list[int]]:
    """Return the fragments that each account names."""
    found = {name: content for name, content in output.files().items() if name.startswith("_optinfer/accounts/")}
    return {name: pq.read_table(io.BytesIO(content))["fragment"].to_pylist() for name, content in found.items()}


@pytest.mark.parametrize("put_back", ["pools"], indirect=True)
def test_an_output_of_two_variants_stays_bound_to_both(put_back: PutBack) -> None:
    output = put_back("unfinished")
    bound = output.files()["_optinfer/variant.json"]
    record = output.score()
    assert (record["variant"], record["beside"]["variant"]) == ("there", "here")
    assert output.files()["_optinfer/variant.json"] == bound
    rows = dict.fromkeys(TIMES, 0)
    for name, variant in makers(output.parts()).items():
        rows[variant] += pq.read_metadata(io.BytesIO(output.parts()[name])).num_rows
    assert record["rows_by_variant"] == rows
    assert min(rows.values()) > 0


@pytest.mark.parametrize("put_back", ["pools"], indirect=True)
@pytest.mark.parametrize("changes", [(), ("variant=there",), ("variant=there", "placement.cpu_variant=auto")])
def test_an_output_of_two_variants_is_refused_to_a_job_of_others(put_back: PutBack, changes: tuple[str, ...]) -> None:
    output = put_back("unfinished")
    before = output.parts()
    with pytest.raises(OutputConflictError, match="variant"):
        replace(output, changes=changes).score()
    assert output.parts() == before


@pytest.mark.parametrize("put_back", ["local"], indirect=True)
def test_a_part_that_is_lost_of_a_finished_output_is_scored_again_alone(put_back: PutBack, work: Path) -> None:
    output = put_back("finished")
    before = output.parts()
    (work / "out" / "part-000003.parquet").unlink()
    record = output.score()
    assert (record["status"], record["fragments_resumed"]) == ("done", FRAGMENTS - 1)
    after = output.parts()
    assert {name for name in after if after[name] != before[name]} <= {"part-000003.parquet"}
    makers(after)


@pytest.mark.parametrize("put_back", ["local"], indirect=True)
def test_another_table_of_the_same_name_is_another_job(put_back: PutBack, run_cli: RunCli) -> None:
    output = put_back("unfinished")
    before = output.parts()
    os.utime("table.parquet")
    code, out, _ = run_cli("run", "job.yaml", "--json")
    assert code == 5
    assert "source.files" in json.loads(out)["message"]
    assert output.parts() == before


@pytest.mark.skipif("OPTINFER_BEFORE" not in os.environ, reason="OPTINFER_BEFORE names no checkout of that version")
def test_what_the_version_before_measured_on_this_machine_is_not_measured_again(
    work: Path, monkeypatch: pytest.MonkeyPatch, last_journal: Callable[[], Path]
) -> None:
    """Baseline, certificate and what `tune` found hold for the machine they were measured on, so none can be kept."""
    monkeypatch.setenv("OPTINFER_HOME", str(work / "home"))
    before = {**os.environ, "PYTHONPATH": f"{BEFORE / 'plugin'}{os.pathsep}{os.environ['OPTINFER_BEFORE']}"}
    tune = [sys.executable, "-m", "optinfer", "tune", "job.yaml", "--json", "--set", "tuning.time_budget=20"]
    subprocess.run(tune, env=before, check=True, capture_output=True)
    kept = contents(work / "home")
    said: list[str] = []
    optinfer.run(optinfer.load_job("job.yaml"), say=said.append, executor=InProcess(NODES[1:]))
    now = contents(work / "home")
    measured = {name for name in kept if name.split("/")[0] in ("baselines", "certificates", "tuned")}
    assert len({name.split("/")[0] for name in measured}) == 3
    assert not [line for line in said if line.startswith(("scoring 8", "certifying", "warning"))]
    assert {name: now[name] for name in measured} == {name: kept[name] for name in measured}
    params = [event["params"] for event in map(json.loads, last_journal().open()) if event["event"] == "params"]
    assert params[-1]["tuned"] != "no"
