"""`optinfer drift` and where references are kept, with sketches of real rows that no model has scored."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from optinfer.data import reference
from optinfer.data.reference import About, Kept
from optinfer.data.storage import Folder
from optinfer.monitoring import sketch
from optinfer.system import home
from tests.conftest import RunCli

SUBJECT: dict[str, object] = {"model": {"digest": "m1", "family": "text-embedding"}, "columns": {"text": "text"}}


def about(name: str) -> About:
    return About(job="nightly", run_id=f"run-{name}", output=name, subject=SUBJECT)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def rows(sample_table: Path) -> pa.Table:
    table = pq.read_table(sample_table)
    return table.take(pa.array(np.random.default_rng(1).permutation(table.num_rows)))


def kept(name: str, rows: pa.Table, characters: int | None = None) -> Kept:
    texts = rows["text"] if characters is None else pc.utf8_slice_codeunits(rows["text"], 0, characters)
    columns = {**sketch.measured("input.text", texts, texts=True), **sketch.measured("column.section", rows["section"])}
    table = sketch.merged([(0, sketch.packed(np.arange(rows.num_rows), columns))]).drop_columns([sketch.FRAGMENT])
    return Kept(about(name), table.append_column("_file", pa.array(["table.parquet"] * rows.num_rows)))


def written(folder: Path, kept: Kept) -> Path:
    reference.write(Folder(str(folder)), kept)
    return folder


def test_a_sketch_is_read_as_it_was_written_and_a_damaged_one_is_none(tmp_path: Path, rows: pa.Table) -> None:
    ours = kept("one", rows.slice(0, 300))
    folder = written(tmp_path / "one", ours)
    found = reference.read(Folder(str(folder)))
    assert found is not None
    assert found.about == ours.about
    assert found.rows.equals(ours.rows)
    file = folder / "_optinfer" / "sketch.pq"
    file.write_bytes(file.read_bytes()[:-30])
    assert reference.read(Folder(str(folder))) is None


def test_what_moved_is_told_and_a_night_like_the_reference_is_quiet(
    tmp_path: Path, rows: pa.Table, run_cli: RunCli
) -> None:
    reference.propose(kept("first", rows.slice(0, 600)))
    quiet = written(tmp_path / "quiet", kept("quiet", rows.slice(600, 600)))
    code, out, _ = run_cli("drift", quiet)
    assert code == 0
    assert "nothing of 3 things in 600 rows moved against run run-first" in out
    short = written(tmp_path / "short", kept("short", rows.slice(600, 600), characters=80))
    code, out, _ = run_cli("drift", short, "--json")
    told = json.loads(out)
    assert (code, told["status"]) == (0, "moved")
    lengths = next(finding for finding in told["findings"] if finding["what"] == "input.text.characters")
    assert {row["file"] for row in lengths["rows"]} == {"table.parquet"}
    assert "--accept" in lengths["advice"]


def test_a_reference_of_another_model_is_refused_with_what_differs(
    tmp_path: Path, rows: pa.Table, run_cli: RunCli
) -> None:
    ours = kept("ours", rows.slice(0, 300))
    other = replace(ours, about=replace(ours.about, subject={**SUBJECT, "model": {"digest": "m2"}}))
    one, two = written(tmp_path / "one", ours), written(tmp_path / "two", other)
    code, out, _ = run_cli("drift", one, "--reference", two, "--json")
    assert code == 2
    assert 'model: {"digest": "m2"} there' in json.loads(out)["message"]
    columns = replace(ours, about=replace(ours.about, subject={**SUBJECT, "columns": {"text": "title"}}))
    code, _, err = run_cli("drift", one, "--reference", written(tmp_path / "three", columns))
    assert (code, "columns: " in err) == (2, True)


def test_a_change_that_is_meant_becomes_the_reference(tmp_path: Path, rows: pa.Table, run_cli: RunCli) -> None:
    reference.propose(kept("first", rows.slice(0, 600)))
    reference.propose(kept("second", rows.slice(600, 600)))  # the first stays
    short = written(tmp_path / "short", kept("short", rows.slice(600, 600), characters=80))
    shorter = written(tmp_path / "again", kept("again", rows.slice(1200, 600), characters=80))
    assert "against run run-first" in run_cli("drift", shorter)[1]
    assert run_cli("drift", short, "--accept")[0] == 0
    assert "nothing of 3 things in 600 rows moved against run run-short" in run_cli("drift", shorter)[1]


def test_what_cannot_be_compared_is_said(tmp_path: Path, rows: pa.Table, run_cli: RunCli) -> None:
    few = written(tmp_path / "few", kept("few", rows.slice(0, 100)))
    code, _, err = run_cli("drift", few)
    assert (code, "no reference of nightly is kept" in err) == (2, True)
    reference.propose(kept("first", rows.slice(0, 600)))
    code, out, _ = run_cli("drift", few)
    assert (code, out.startswith("too few rows: 100 were measured here and 600 of the reference")) == (0, True)
    (tmp_path / "empty").mkdir()
    code, _, err = run_cli("drift", tmp_path / "empty")
    assert (code, "is not the output of an optinfer job" in err) == (2, True)
    assert run_cli("drift", few, "--accept", "--reference", few)[0] == 2


def test_a_reference_that_is_damaged_counts_as_none(rows: pa.Table) -> None:
    first = kept("first", rows.slice(0, 300))
    reference.propose(first)
    (file,) = (home.home() / "references").glob("*.pq")
    file.write_bytes(file.read_bytes()[:-40])
    assert reference.reference(first.about) is None
    reference.propose(kept("second", rows.slice(300, 300)))
    found = reference.reference(first.about)
    assert found is not None
    assert found.about.run_id == "run-second"


def test_a_home_on_s3_has_the_reference_for_every_machine(
    tmp_path: Path, bucket: str, rows: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTINFER_HOME", f"{bucket}/home")
    first, second = (kept(name, rows.slice(start, 300)) for name, start in (("first", 0), ("second", 300)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    reference.propose(first)
    reference.add_speed(first.about, "artifact", 100.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
    reference.propose(second)
    found = reference.reference(second.about)
    assert found is not None
    assert found.about.run_id == "run-first"
    reference.add_speed(second.about, "artifact", 90.0)
    assert reference.speeds(first.about, "artifact") == [100.0, 90.0]
    reference.replace(second)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    found = reference.reference(first.about)
    assert found is not None
    assert found.about.run_id == "run-second"
