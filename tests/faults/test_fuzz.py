"""Bytes that nobody wrote: job files, tables, state and records are read as what they are, or refused, and nothing else.

A few seconds here; `make fuzz` tries for minutes. Whatever is not an error of ours fails, and so does what does not end.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optinfer.config import SourceConfig
from optinfer.data import lock
from optinfer.data.binding import read_record
from optinfer.data.output import Output
from optinfer.data.patience import Patience
from optinfer.data.reading import FragmentReader
from optinfer.data.sinks.parquet import ParquetSink
from optinfer.data.sources.parquet import plan
from optinfer.data.storage import STATE, Folder
from optinfer.errors import ConfigError, OptinferError
from optinfer.job_file import load_job
from optinfer.models.artifact import Artifact
from optinfer.records.manifest import Manifest
from optinfer.tracking.past import Asked, from_journals, kept_here
from tests.conftest import REPO, job_settings

FUZZ = settings(
    max_examples=int(os.environ.get("OPTINFER_FUZZ_EXAMPLES", "60")),
    suppress_health_check=list(HealthCheck),
    derandomize="OPTINFER_FUZZ_EXAMPLES" not in os.environ,
)
HASTY = Patience(seconds=0.0, first_wait=0.0)
JOB = yaml.safe_dump(job_settings("t.parquet", "out"), sort_keys=False).encode()


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes of a file with some of them others, gone, twice, or cut off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "cut", "drop", "insert", "repeat"]))
        if kind == "flip" and data:
            data[at] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + draw(st.integers(1, 32))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
        else:
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
    return bytes(data)


@functools.cache
def table() -> bytes:
    sink = io.BytesIO()
    rows = pa.table(
        {"text": [f"row {row}" for row in range(64)], "n": list(range(64)), "l": [[row] for row in range(64)]}
    )
    pq.write_table(rows, sink, row_group_size=16)
    return sink.getvalue()


def written(content: bytes, name: str) -> Path:
    path = Path(tempfile.mkdtemp(prefix="fuzz-"), name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@FUZZ
@given(damaged(JOB) | st.binary(max_size=200))
def test_a_job_file_is_a_job_or_refused(content: bytes) -> None:
    try:
        load_job(written(content, "job.yaml"))
    except ConfigError as refused:
        said = str(refused)
        assert len(said) < 10_000


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=8,
)
SECTIONS = [*sorted(job_settings("a", "b")), "variants", "placement", "batching", "notify", "tuning", "selection"]


@FUZZ
@given(st.sampled_from(SECTIONS), VALUES)
def test_any_value_of_any_section_is_taken_or_refused(section: str, value: Any) -> None:
    raw = {**job_settings("t.parquet", "out"), section: value}
    try:
        load_job(written(yaml.safe_dump(raw, allow_unicode=True).encode("utf-8", "surrogatepass"), "job.yaml"))
    except ConfigError as refused:
        said = str(refused)
        assert len(said) < 20_000


@FUZZ
@given(st.text())
def test_any_change_is_taken_or_refused(change: str) -> None:
    path = written(JOB, "job.yaml")
    with contextlib.suppress(ConfigError):
        load_job(path, (change,))


@FUZZ
@given(damaged(table()))
def test_a_table_is_read_or_refused(content: bytes) -> None:
    path = written(content, "t.parquet")
    try:
        source = SourceConfig(path=str(path), columns={"text": "text"})
        planned = plan(source, ["text", "n", "l"], 16, HASTY)
        reader = FragmentReader(["text", "n", "l"], HASTY)
        for fragment in planned.fragments:
            assert reader.read(fragment).num_rows == fragment.rows
    except OptinferError as refused:
        said = str(refused)
        assert len(said) < 10_000


RECORDS: dict[str, Callable[[Folder], object]] = {
    f"{STATE}/job.json": lambda folder: Output(folder.url).binding.job(),
    f"{STATE}/plan.pq": lambda folder: Output(folder.url).binding.planned_rows(),
    f"{STATE}/lock.json": lock.holder,
    f"{STATE}/ended.json": lock.bad_end,
    "_manifest.json": lambda folder: read_record(folder, "_manifest.json", Manifest.of),
    "part-000000.parquet": lambda folder: ParquetSink(folder.url).read(["part-000000.parquet"], whole=True),
}
FINISHED = REPO / "tests" / "outputs_before" / "finished"


@functools.cache
def of_an_output(name: str) -> bytes:
    found = next((path for path in FINISHED.rglob(Path(name).name)), None)
    return found.read_bytes() if found else b'{"token": "x", "host": "h", "pid": 1, "started": 0.5, "beat": 1.5}'


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_of_an_output_is_read_or_counts_as_none(name: str) -> None:
    @FUZZ
    @given(damaged(of_an_output(name)) | st.binary(max_size=64))
    def holds(content: bytes) -> None:
        path = written(content, name)
        folder = Folder(str(path.parents[name.count("/")]))
        with contextlib.suppress(OptinferError):
            RECORDS[name](folder)

    holds()


@FUZZ
@given(st.binary(max_size=64) | VALUES.map(lambda value: json.dumps(value, default=str, skipkeys=True).encode()))
def test_an_artifact_s_record_is_read_or_counts_as_none(content: bytes) -> None:
    assert Artifact.read(written(content, "artifact.json").parent) is None


STARTED = b'{"event": "start", "time": 1.0, "run_name": "j", "params": {"job": "j"}, "tags": {}}\n'
FINISHED_WITH = (
    b'{"event": "finish", "time": 2.0, "status": "failed", "metrics": {}, "tags": {"optinfer.error": "x"}}\n'
)


@pytest.mark.parametrize("whole", [STARTED + FINISHED_WITH, STARTED])
def test_a_journal_is_a_run_or_a_note(whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path))
    path = tmp_path / "runs" / "r" / "journal.jsonl"
    path.parent.mkdir(parents=True)

    @FUZZ
    @given(damaged(whole))
    def holds(content: bytes) -> None:
        path.write_bytes(content)
        runs, notes = from_journals(kept_here(), Asked(job="j"), 5, lambda started: False)
        assert len(runs) + len(notes) <= 1

    holds()
