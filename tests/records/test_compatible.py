"""What earlier versions wrote is read whole and said again: the files are theirs, made by their code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from optinfer.records.binding import Bound, FrozenJob
from optinfer.records.manifest import Manifest
from optinfer.records.record import Record, decoded
from tests.conftest import REPO

BEFORE = REPO / "tests" / "outputs_before"


def files(name: str) -> list[Any]:
    return [pytest.param(path, id=path.relative_to(BEFORE).as_posix()) for path in sorted(BEFORE.rglob(name))]


@pytest.mark.parametrize("path", files("_manifest.json"))
def test_a_manifest_keeps_every_key_and_value(path: Path) -> None:
    raw = json.loads(path.read_text())
    again = json.loads(json.dumps(Manifest.of(raw).as_dict()))
    told = {**raw["run"], "forecast": {**again["run"]["forecast"], **raw["run"]["forecast"]}}
    assert again["run"] == {**again["run"], **told}
    assert again == {**again, **raw, "run": again["run"]}


@pytest.mark.parametrize(("kind", "path"), [
    *((FrozenJob, one.values[0]) for one in files("job.json")), *((Bound, one.values[0]) for one in files("variant.json")),
])  # fmt: skip
def test_what_an_output_is_bound_to_stays_as_it_is(kind: type[Record], path: Path) -> None:
    raw = json.loads(path.read_text())
    assert json.loads(json.dumps(decoded(kind, raw).as_dict())) == raw


def test_a_value_that_is_none_any_more_costs_itself_alone() -> None:
    run = {"run_id": "r", "fragments": 2, "rows_in": 3, "gate": {"from": "another version"}, "seconds": "soon"}
    found = Manifest.of({"run": run, "parts": "somewhere"})
    assert (found.run.rows_in, found.run.gate, found.run.seconds, found.parts) == (3, None, 0.0, None)
    assert found.as_dict()["run"]["gate"] == {}


@pytest.mark.parametrize("raw", [None, [], {"run": None}, {"run": {"rows_in": 3}}, {"run": {"run_id": "r"}}])
def test_a_manifest_that_names_no_run_is_none(raw: object) -> None:
    with pytest.raises(ValueError):
        Manifest.of(raw)
