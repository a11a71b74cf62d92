"""`monitor`: what a job keeps of its rows and answers, held against its first output; and `optinfer drift`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from optinfer.commands.run import run
from optinfer.config import JobConfig
from optinfer.records.run import RunRecord
from optinfer.system import home
from tests.conftest import MakeJob, RunCli

SKETCH = "_optinfer/sketch.pq"
pytestmark = pytest.mark.usefixtures("fake_variant", "without_ray")


class Nights:
    """A job whose table is another one each night."""

    def __init__(self, folder: Path, rows: pa.Table, make_job: MakeJob) -> None:
        self.folder, self.rows, self._make_job = folder, rows, make_job

    def job(self, name: str, rows: pa.Table, **changes: Any) -> JobConfig:
        table = self.folder / f"{name}.parquet"
        if not table.exists():
            pq.write_table(rows, table)
        # Its name keeps its reference apart from those of other tests.
        settings = {"name": self.folder.name, "source__fragment_rows": 128, "sink__columns": ["id", "section"]}
        return self._make_job(table, self.folder / "out" / name, **settings | changes)

    def run(self, name: str, rows: pa.Table, **changes: Any) -> RunRecord:
        return run(self.job(name, rows, **changes))

    def kept(self, end: str) -> Path:
        """Return what the home keeps of this job, whose references are newer than those of other tests."""
        return max((home.home() / "references").glob(f"*{end}"), key=lambda path: path.stat().st_mtime_ns)

    def file(self, name: str, file: str) -> Path:
        return self.folder / "out" / name / file


@pytest.fixture
def nights(tmp_path: Path, sample_table: Path, make_job: MakeJob) -> Nights:
    """Return nights with the repository's rows in an order that says nothing of them."""
    table = pq.read_table(sample_table)
    order = pc.sort_indices(pa.table({"h": [hash_of(name) for name in table["id"].to_pylist()]}), [("h", "ascending")])
    return Nights(tmp_path, table.take(order), make_job)


def hash_of(name: str) -> str:
    import hashlib

    return hashlib.sha256(name.encode()).hexdigest()


def shortened(rows: pa.Table, characters: int) -> pa.Table:
    return rows.set_column(2, "text", pc.utf8_slice_codeunits(rows["text"], 0, characters))


def test_a_night_like_the_first_is_quiet_and_what_moved_is_told_wherever_a_run_is_told(
    nights: Nights, run_cli: RunCli, tmp_path: Path, own_store: str
) -> None:
    watch = {"columns": ["section"]}
    first = nights.run("one", nights.rows.slice(0, 600), monitor=watch)
    assert first.drift is not None
    assert (first.drift.status, first.drift.rows) == ("reference", 600)
    second = nights.run("like it", nights.rows.slice(1200, 600), monitor=watch)
    assert second.drift is not None
    assert [finding.what for finding in second.drift.findings if finding.what != "speed"] == []
    assert second.drift.reference is not None
    assert second.drift.reference.run_id == first.run_id
    assert {
        "input.text.characters", "input.text.null", "tokens", "tokens.truncated", "tokens.unknown", "repeated",
        "unanswered", "answer.embedding", "column.section",
    } <= second.drift.watched.keys()  # fmt: skip
    moved = nights.run("two", shortened(nights.rows.slice(600, 600), 60), monitor=watch, tracking__uri=own_store)
    assert moved.drift is not None
    assert moved.drift.status == "moved"
    found = {finding.what: finding for finding in moved.drift.findings}
    assert {"input.text.characters", "tokens"} <= found.keys()
    lengths = found["input.text.characters"]
    texts = pq.read_table(nights.folder / "two.parquet")["text"]
    assert lengths.rows
    assert {row.file for row in lengths.rows} == {str(nights.folder / "two.parquet")}
    assert all(len(texts[row.row].as_py()) <= 60 for row in lengths.rows)
    manifest = json.loads(nights.file("two", "_manifest.json").read_text())
    assert any("input.text.characters moved" in line for line in manifest["warnings"])
    assert manifest["run"]["drift"]["findings"][0]["advice"]
    code, out, _ = run_cli("drift", tmp_path / "out" / "two")
    assert code == 0
    assert "moved against run" in out
    assert "optinfer tune" in out
    code, out, _ = run_cli("drift", tmp_path / "out" / "two", "--json")
    told = json.loads(out)
    assert told["findings"] == manifest["run"]["drift"]["findings"]
    from mlflow import MlflowClient

    client = MlflowClient(own_store)
    ours = client.get_run(str(moved.mlflow and moved.mlflow.run_id))
    assert ours.data.metrics["stats/drift.input.text.characters.ks"] == lengths.measures["ks"].value
    assert "moved" in ours.data.tags["optinfer.warnings"]
    assert "drift.json" in {file.path for file in client.list_artifacts(ours.info.run_id)}


def test_a_resumed_output_has_the_sketch_of_one_that_was_not_cut_off(nights: Nights) -> None:
    rows = nights.rows.slice(0, 700)
    whole = nights.run("one", rows, monitor={"rows": 300})
    assert whole.drift is not None
    assert 200 < whole.drift.rows < 400
    before = pq.read_table(nights.file("one", SKETCH))
    for gone in ("_SUCCESS", "_manifest.json", SKETCH, "part-000001.parquet", "part-000004.parquet"):
        nights.file("one", gone).unlink()
    shutil.rmtree(nights.file("one", "_optinfer/accounts"))  # what is left is known from footers alone
    again = nights.run("one", rows, monitor={"rows": 300})
    assert again.fragments_resumed == again.fragments - 2
    assert pq.read_table(nights.file("one", SKETCH)).equals(before)


def test_a_job_that_is_not_watched_keeps_nothing_and_has_the_same_fingerprint(nights: Nights, run_cli: RunCli) -> None:
    rows = nights.rows.slice(0, 300)
    record = nights.run("one", rows, monitor=False)
    assert record.drift is None
    assert "drift" not in record.as_dict()
    assert not nights.file("one", SKETCH).exists()
    footer = pq.read_metadata(nights.file("one", "part-000000.parquet")).metadata[b"optinfer"]
    assert "sketch" not in json.loads(footer)
    assert run(nights.job("one", rows)).status == "nothing to do"
    code, _, err = run_cli("drift", nights.folder / "out" / "one")
    assert (code, "nothing was kept of the rows" in err) == (2, True)
    assert "monitor" not in json.loads(nights.file("one", "_optinfer/job.json").read_text())["fields"]


def test_columns_that_a_job_does_not_read_cannot_be_watched(nights: Nights) -> None:
    from optinfer.errors import ConfigError

    with pytest.raises(ConfigError, match=r"monitor\.columns names licence, which the job does not read"):
        nights.job("one", nights.rows, monitor={"columns": ["licence"]})


def test_a_run_that_is_slower_than_runs_like_it_is_a_finding(nights: Nights) -> None:
    nights.run("one", nights.rows.slice(0, 600))
    speeds = nights.kept(".json")
    (own,) = json.loads(speeds.read_text())
    speeds.write_text(json.dumps([own * 1e4] * 6))
    second = nights.run("two", nights.rows.slice(600, 600))
    assert second.drift is not None
    assert "speed" in [finding.what for finding in second.drift.findings]
    assert len(json.loads(speeds.read_text())) == 7
