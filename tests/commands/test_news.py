"""Jobs whose endpoints are down, slow, broken or silent: what they answer and how they end does not change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import optinfer
from optinfer import errors
from optinfer.commands.news import News
from optinfer.system import home
from optinfer.tracking.journal import read
from tests.conftest import MakeJob, RunCli, WriteJob, WriteTable
from tests.tracking.endpoint import DRIPPING, NEVER, Endpoint, endpoint

pytestmark = pytest.mark.usefixtures("fake_variant", "without_ray")

SECRET = "sh-it-is-a-s3cret"


@pytest.fixture
def source(tmp_path: Path, write_table: WriteTable, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    return write_table(tmp_path / "table.parquet")


def notify(to: Endpoint | str, **more: Any) -> dict[str, Any]:
    return {"url": to if isinstance(to, str) else to.url, "secret_env": "HOOK_SECRET", **more}


def undelivered(run_id: str) -> list[Mapping[str, Any]]:
    events = read(home.runs() / run_id / "journal.jsonl")
    return [event for event in events if event["event"] == "undelivered"]


def everywhere(tmp_path: Path) -> bytes:
    """Return all that a job left on disk."""
    places = (tmp_path, home.home())
    return b"".join(path.read_bytes() for place in places for path in sorted(place.rglob("*")) if path.is_file())


def test_a_done_run_is_posted_as_it_is_answered(source: Path, sink: Path, make_job: MakeJob) -> None:
    with endpoint() as hook:
        record = optinfer.run(make_job(source, sink, notify=notify(hook)))
    ((headers, body),) = hook.arrived
    told = json.loads(body)
    assert told == json.loads((sink / "_manifest.json").read_text())["run"]
    given = json.loads(json.dumps(record.as_dict()))
    assert {**told, "mlflow": given["mlflow"]} == given
    assert headers["webhook-id"] == f"{record.run_id}-done"
    assert undelivered(record.run_id) == []


def test_one_with_nothing_left_to_do_says_so(source: Path, sink: Path, make_job: MakeJob) -> None:
    with endpoint() as hook:
        for _ in range(2):
            optinfer.run(make_job(source, sink, notify=notify(hook)))
    assert [json.loads(body)["status"] for _, body in hook.arrived] == ["done", "nothing to do"]


def test_a_failed_run_is_posted_with_its_exit_code(source: Path, sink: Path, make_job: MakeJob) -> None:
    with endpoint() as hook, pytest.raises(errors.GateError):
        optinfer.run(make_job(source, sink, notify=notify(hook), gate__min=0.99))
    told = json.loads(hook.arrived[0][1])
    assert (told["status"], told["error"], told["exit_code"], told["job"]) == ("failed", "GateError", 4, "test")
    assert "no variant passes the gate" in told["message"]
    assert told["output"] == str(sink)


def test_a_job_that_cannot_begin_is_a_failed_one(tmp_path: Path, source: Path, sink: Path, make_job: MakeJob) -> None:
    with endpoint() as hook, pytest.raises(errors.ConfigError):
        optinfer.run(make_job(tmp_path / "none.parquet", sink, notify=notify(hook)))
    assert json.loads(hook.arrived[0][1])["exit_code"] == 2


def test_only_the_ends_that_are_asked_for_are_posted(source: Path, sink: Path, make_job: MakeJob) -> None:
    with endpoint() as hook:
        optinfer.run(make_job(source, sink, notify=notify(hook, on=["failed"])))
    assert hook.arrived == []


ENDPOINTS: dict[str, tuple[int | str, ...]] = {
    "answers": (200,),
    "500 then 200": (500, 200),
    "500": (500,),
    "401": (401,),
    "never answers": (NEVER,),
    "drips": (DRIPPING,),
}


@pytest.mark.parametrize("answers", ENDPOINTS.values(), ids=ENDPOINTS)
def test_whatever_the_endpoint_does_the_job_is_done_and_the_record_the_same(
    answers: tuple[int | str, ...], source: Path, sink: Path, write_job: WriteJob, run_cli: RunCli
) -> None:
    with endpoint(*answers) as hook:
        code, out, err = run_cli("run", write_job(source, sink, notify=notify(hook)), "--json")
        assert not hook.released.is_set()
    record = json.loads(out)
    assert (code, record["status"], record["rows_out"]) == (0, "done", 40)
    assert {**record, "mlflow": {}} == {**json.loads((sink / "_manifest.json").read_text())["run"], "mlflow": {}}
    kept = undelivered(record["run_id"])
    if answers[-1] == 200:
        assert (kept, "warning" in err) == ([], False)
    else:
        (line,) = [line for line in err.splitlines() if "did not reach" in line]
        assert line.startswith(f"warning: the record of this run did not reach {hook.url.removesuffix('/hook')}: ")
        assert line.endswith(f"kept in {home.runs() / record['run_id'] / 'journal.jsonl'}")
        assert json.loads(kept[0]["body"])["run_id"] == record["run_id"]


def test_an_endpoint_that_is_down_changes_no_exit_code(
    source: Path, sink: Path, write_job: WriteJob, run_cli: RunCli, free_port: int
) -> None:
    down = notify(f"http://127.0.0.1:{free_port}/hook")
    assert run_cli("run", write_job(source, sink, notify=down, gate={"min": 0.99, "sample_rows": 8}))[0] == 4
    code, _, err = run_cli("run", write_job(source, sink, notify=down))
    assert code == 0
    assert "did not reach http://127.0.0.1" in err


def test_neither_the_secret_nor_the_path_of_the_webhook_is_kept_or_said(
    tmp_path: Path, source: Path, sink: Path, make_job: MakeJob
) -> None:
    said: list[str] = []
    with endpoint(401, path="/services/T0/p4th-s3cret?token=t0ken") as hook:
        job = make_job(source, sink, notify=notify(hook))
        optinfer.run(job, say=said.append)
    left = everywhere(tmp_path) + "\n".join([*said, repr(job), *map(str, hook.arrived)]).encode()
    assert SECRET.encode() not in left
    for text in ("\n".join([*said, repr(job)]).encode(), everywhere(tmp_path)):
        assert b"p4th-s3cret" not in text
        assert b"t0ken" not in text


def test_a_secret_that_is_not_there_is_refused_before_anything_starts(
    source: Path, sink: Path, make_job: MakeJob
) -> None:
    with pytest.raises(errors.ConfigError, match="NO_SUCH_SECRET, and this environment has no such variable"):
        optinfer.run(make_job(source, sink, notify={"url": "https://example.org", "secret_env": "NO_SUCH_SECRET"}))
    assert not sink.exists()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"url": "ftp://example.org"}, "give an http:// or https:// URL"),
        ({"url": "https:///path"}, "give an http:// or https:// URL"),
        ({"secret_env": "X"}, "secret_env signs what is posted to url, and there is none"),
        ({"url": "https://example.org", "on": ["ended"]}, "'done', 'failed' or 'interrupted'"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    source: Path, sink: Path, make_job: MakeJob, settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(errors.ConfigError, match=complaint):
        make_job(source, sink, notify=settings)


def test_an_interrupted_run_is_told_where_that_is_asked_for(source: Path, sink: Path, make_job: MakeJob) -> None:
    with endpoint() as hook:
        job = make_job(source, sink, notify=notify(hook, on=["interrupted"]))
        with pytest.raises(KeyboardInterrupt), News(job, "run-1", lambda line: None):
            raise KeyboardInterrupt
    told = json.loads(hook.arrived[0][1])
    assert (told["status"], told["exit_code"]) == ("interrupted", 130)
