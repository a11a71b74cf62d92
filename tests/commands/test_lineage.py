"""OpenLineage events of real jobs, sent by the real package to an endpoint on loopback."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import optinfer
from optinfer import errors
from optinfer.system import home
from optinfer.tracking.journal import read
from tests.conftest import MakeJob, WriteTable
from tests.tracking.endpoint import NEVER, Endpoint, endpoint

pytestmark = pytest.mark.usefixtures("fake_variant", "without_ray")


@pytest.fixture
def source(tmp_path: Path, write_table: WriteTable) -> Path:
    return write_table(tmp_path / "table.parquet")


def point_at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    pytest.importorskip("openlineage.client", reason="openlineage-python is not installed")
    monkeypatch.setenv("OPENLINEAGE_URL", url)
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "nightly")


def told(served: Endpoint) -> list[dict[str, Any]]:
    return [json.loads(body) for _, body in served.arrived]


def test_a_run_starts_and_completes_with_its_tables(
    source: Path, sink: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    with endpoint(path="") as served:
        point_at(monkeypatch, served.url)
        record = optinfer.run(make_job(source, sink))
    start, complete = told(served)
    assert [event["eventType"] for event in (start, complete)] == ["START", "COMPLETE"]
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert start["job"]["namespace"] == "nightly"
    assert start["job"]["name"] == "test"
    assert start["job"]["facets"]["jobType"]["processingType"] == "BATCH"
    (read_from,), (written,) = complete["inputs"], complete["outputs"]
    assert (read_from["namespace"], read_from["name"]) == ("file", str(source))
    assert (written["namespace"], written["name"]) == ("file", str(sink))
    columns = [(field["name"], field["type"]) for field in written["facets"]["schema"]["fields"]]
    assert columns[0] == ("id", "string")
    assert columns[1][0] == "embedding"
    assert {"id", "text"} <= {field["name"] for field in read_from["facets"]["schema"]["fields"]}
    assert written["outputFacets"]["outputStatistics"]["rowCount"] == record.rows_out
    assert complete["producer"].startswith("urn:optinfer:")


def test_a_run_that_fails_says_why(
    source: Path, sink: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    with endpoint(path="") as served:
        point_at(monkeypatch, served.url)
        with pytest.raises(errors.GateError):
            optinfer.run(make_job(source, sink, gate__min=0.99))
    start, failed = told(served)
    assert (start["eventType"], failed["eventType"]) == ("START", "FAIL")
    assert "no variant passes the gate" in failed["run"]["facets"]["errorMessage"]["message"]


def test_on_s3_tables_are_named_by_bucket_and_key(
    bucket: str, source: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    with endpoint(path="") as served:
        point_at(monkeypatch, served.url)
        optinfer.run(make_job(source, f"{bucket}/nights/out"))
    (written,) = told(served)[-1]["outputs"]
    assert (written["namespace"], written["name"]) == (bucket, "nights/out")


def test_an_endpoint_that_never_answers_costs_a_line(
    source: Path, sink: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with endpoint(NEVER, path="") as served:
        point_at(monkeypatch, served.url)
        record = optinfer.run(make_job(source, sink), say=said.append)
        assert not served.released.is_set()
    assert record.status == "done"
    lines = [line for line in said if "lineage event" in line]
    assert [line.partition(" did not reach")[0] for line in lines] == [
        "warning: the lineage event START",
        "warning: the lineage event COMPLETE",
    ]
    kept = [e for e in read(home.runs() / record.run_id / "journal.jsonl") if e["event"] == "undelivered"]
    assert [json.loads(event["body"])["event"] for event in kept] == ["START", "COMPLETE"]


def test_an_endpoint_that_refuses_costs_a_line_without_its_credentials(
    source: Path, sink: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with endpoint(401, path="") as served:
        point_at(monkeypatch, served.url.replace("http://", "http://reader:s3cret@"))
        monkeypatch.setenv("OPENLINEAGE_API_KEY", "k3y")
        assert optinfer.run(make_job(source, sink), say=said.append).status == "done"
    lines = [line for line in said if "lineage event" in line]
    assert "401" in lines[0]
    assert not any("s3cret" in line or "k3y" in line for line in said)


def test_where_the_package_is_missing_one_line_says_so_with_the_fix(
    source: Path, sink: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setitem(sys.modules, "openlineage", None)
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:9")
    assert optinfer.run(make_job(source, sink), say=said.append).status == "done"
    (line,) = [line for line in said if "OPENLINEAGE_URL" in line]
    assert "pip install 'optinfer[lineage]'" in line
