"""A job of two variants: one on GPUs, one on the nodes without any; its output says whose each row is.

Both score in this process, in turns; test_cluster.py has them on nodes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import optinfer
from optinfer import errors
from optinfer.commands import plan as plans
from optinfer.commands.resolved import resolve
from optinfer.data.account import Accounts
from optinfer.data.sinks.parquet import FOOTER_KEY
from optinfer.data.storage import Folder
from optinfer.execution.in_process import InProcess
from optinfer.execution.placement import Node
from optinfer.forecast import runs
from optinfer.inference.replica import Replica
from optinfer.optimization.variants import VARIANTS, Step, Variant
from optinfer.records.text import plan_text, run_text
from optinfer.tracking.journal import read as read_journal
from tests.conftest import MakeJob, WriteTable, read_rows

MIXED = {"variant": "stand-in", "placement": {"cpu_variant": "fake"}}


@pytest.fixture(autouse=True)
def nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fake_variant: str) -> list[Node]:
    """Add `stand-in`, a variant for a GPU that is not there, and let replicas of both kinds take turns."""
    (tmp_path / "calls").mkdir()
    steps = (Step("fault", {"folder": str(tmp_path), "sign": -1}),)
    monkeypatch.setitem(
        VARIANTS, "stand-in", Variant(name="stand-in", steps=steps, backend="faulty", device="cuda", about="")
    )
    return [Node(cpus=1, gpus=1, name="with"), Node(cpus=1, name="without")]


Run = Callable[..., Any]


@pytest.fixture
def run(nodes: list[Node]) -> Run:
    """Return what runs a job on these nodes, all in this process."""
    return lambda config, **options: optinfer.run(config, executor=InProcess(nodes), **options)


@pytest.fixture
def source(tmp_path: Path, write_table: WriteTable) -> Path:
    return write_table(tmp_path / "table.parquet", rows=64)


@pytest.fixture
def plain(tmp_path: Path, run: Run, make_job: MakeJob, source: Path) -> np.ndarray[Any, Any]:
    """Return what `fake` alone answers; `stand-in` answers the same with the other sign."""
    run(make_job(source, tmp_path / "plain"))
    return np.array([row["embedding"] for row in read_rows(tmp_path / "plain")])


def makers(sink: Path, plain: np.ndarray[Any, Any]) -> dict[str, str]:
    """Return the variant that each part names, once it is sure that its rows are that variant's."""
    found = {}
    for index, part in enumerate(sorted(sink.glob("part-*"))):
        table = pq.read_table(part)
        found[part.name] = json.loads(table.schema.metadata[FOOTER_KEY])["variant"]
        sign = {"stand-in": -1, "fake": 1}[found[part.name]]
        expected = sign * plain[16 * index : 16 * index + 16]
        np.testing.assert_allclose(np.array(table["embedding"].to_pylist()), expected, atol=1e-6)
    return found


def told(sink: Path, fingerprint: str) -> list[dict[str, Any]]:
    """Return who made each fragment by the accounts, in order."""
    table = Accounts(Folder(str(sink)), fingerprint).read()[0].select(["fragment", "artifact", "variant"])
    rows: list[dict[str, Any]] = table.sort_by("fragment").to_pylist()
    return rows


def cut(sink: Path, *parts: int) -> None:
    """Leave the output as a run does that ended before it had committed these parts."""
    for name in ("_SUCCESS", "_manifest.json", *(f"part-{i:06d}.parquet" for i in parts)):
        (sink / name).unlink()


def test_each_part_names_the_variant_whose_rows_it_holds(
    run: Run, make_job: MakeJob, source: Path, sink: Path, plain: np.ndarray[Any, Any], last_journal: Callable[[], Path]
) -> None:
    record = run(make_job(source, sink, **MIXED))
    assert (record.variant, record.beside.variant) == ("stand-in", "fake")
    assert record.beside.gate.passed
    assert record.beside.certificate.device == "cpu"
    assert (record.rows_out, record.rows_by_variant) == (64, {"stand-in": 32, "fake": 32})
    assert list(makers(sink, plain).values()) == ["stand-in", "fake", "stand-in", "fake"]
    footers = [json.loads(pq.read_schema(part).metadata[FOOTER_KEY]) for part in sorted(sink.glob("part-*"))]
    accounts = told(sink, record.fingerprint)
    assert accounts == [{key: footer[key] for key in accounts[0]} for footer in footers]
    assert len({footer["artifact"] for footer in footers}) == 2
    manifest = json.loads((sink / "_manifest.json").read_text())
    assert manifest["run"]["beside"] == json.loads(json.dumps(record.beside.as_dict()))
    params = [event["params"] for event in read_journal(last_journal()) if event["event"] == "params"]
    assert (params[-1]["beside.variant"], params[-1]["placement.beside.replicas"]) == ("fake", 1)
    assert "beside it certificate" in record.forecast.basis
    said = run_text(record)
    assert "on CPUs     fake: cosine" in said
    assert "rows: 32 by stand-in, 32 by fake" in said


def test_a_forecast_counts_and_pays_nodes_of_both_kinds(
    run: Run, make_job: MakeJob, source: Path, sink: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "gpu", lambda: "NVIDIA H100 80GB HBM3")
    prices = {"H100": 3.0, "cpu": 1.0}
    placement = {"cpu_variant": "fake", "cost_per_hour": prices}
    told = run(make_job(source, sink, variant="stand-in", placement=placement)).forecast
    assert told.nodes == 2
    assert told.cost == pytest.approx(told.seconds / 3600 * (3 + 1))
    missing = {"cpu_variant": "fake", "cost_per_hour": {"H100": 3.0}}
    told = run(make_job(source, sink.parent / "other", variant="stand-in", placement=missing)).forecast
    assert told.cost is None


def test_a_plan_names_the_second_variant_and_says_why_this_machine_has_no_place_for_it(
    make_job: MakeJob, source: Path, sink: Path
) -> None:
    plan = plans.plan(resolve(make_job(source, sink, **MIXED)), here=Node(cpus=2, gpus=1))
    assert plan.cpu_variant == "fake: none, fake"
    assert plan.placement[0].reasons[-1] == "no replicas beside them: every node has a free GPU"
    assert "cpu_variant" in plan_text(plan)


def test_a_job_of_one_variant_says_so_too(run: Run, make_job: MakeJob, source: Path, sink: Path) -> None:
    record = run(make_job(source, sink))
    assert (record.rows_by_variant, record.beside) == ({"fake": 64}, None)
    assert "on CPUs" not in run_text(record)


@pytest.mark.parametrize("accounts", [True, False], ids=["accounts", "footers"])
def test_an_output_of_two_variants_is_resumed(
    run: Run, make_job: MakeJob, source: Path, sink: Path, plain: np.ndarray[Any, Any], accounts: bool
) -> None:
    run(make_job(source, sink, **MIXED))
    cut(sink, 0, 3)
    if not accounts:
        for account in (sink / "_optinfer" / "accounts").iterdir():
            account.unlink()
    record = run(make_job(source, sink, **MIXED))
    assert (record.fragments_resumed, record.rows_out) == (2, 64)
    assert record.rows_by_variant == {"stand-in": 32, "fake": 32}
    assert sorted(makers(sink, plain).values()) == ["fake", "fake", "stand-in", "stand-in"]


def test_a_resume_keeps_the_second_variant_that_auto_took(
    run: Run, make_job: MakeJob, source: Path, sink: Path, plain: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in VARIANTS if n not in ("fake", "stand-in", "torch-fp32")]:
        monkeypatch.delitem(VARIANTS, name)
    job = make_job(source, sink, variant="stand-in", placement={"cpu_variant": "auto"})
    assert run(job).beside.variant == "fake"
    cut(sink, 0, 1)
    monkeypatch.setitem(VARIANTS, "fake", replace(VARIANTS["fake"], exploratory=True))  # `auto` would leave it out now
    assert run(job).rows_by_variant == {"stand-in": 32, "fake": 32}
    makers(sink, plain)


def test_a_part_by_a_third_artifact_is_refused(run: Run, make_job: MakeJob, source: Path, sink: Path) -> None:
    run(make_job(source, sink, **MIXED))
    cut(sink, 0)
    for account in (sink / "_optinfer" / "accounts").iterdir():
        account.unlink()
    table = pq.read_table(sink / "part-000001.parquet")
    footer = {**json.loads(table.schema.metadata[FOOTER_KEY]), "artifact": "stranger"}
    pq.write_table(table.replace_schema_metadata({FOOTER_KEY: json.dumps(footer)}), sink / "part-000001.parquet")
    with pytest.raises(errors.OutputConflictError, match=r"holds fragments by artifact stranger, this run uses .* and"):
        run(make_job(source, sink, **MIXED))


@pytest.mark.parametrize("placement", [{}, {"cpu_variant": "torch-fp32"}, {"cpu_variant": "auto"}])
def test_another_second_variant_is_another_job(
    run: Run, make_job: MakeJob, source: Path, sink: Path, placement: dict[str, Any]
) -> None:
    run(make_job(source, sink, **MIXED))
    cut(sink, 0)
    with pytest.raises(errors.OutputConflictError, match="cpu_variant"):
        run(make_job(source, sink, variant="stand-in", placement=placement))


def test_without_a_node_for_it_the_second_variant_waits_for_a_resume_that_has_one(
    run: Run, make_job: MakeJob, source: Path, sink: Path, plain: np.ndarray[Any, Any], nodes: list[Node]
) -> None:
    without, said = nodes.pop(), []
    record = run(make_job(source, sink, **MIXED), say=said.append)
    assert any("no replicas beside them: every node has a free GPU" in line for line in said)
    assert (record.rows_by_variant, len(record.placement)) == ({"stand-in": 64}, 1)
    nodes.append(without)
    cut(sink, 0, 1)
    assert run(make_job(source, sink, **MIXED)).rows_by_variant == {"stand-in": 48, "fake": 16}
    assert set(makers(sink, plain).values()) == {"stand-in", "fake"}


def test_a_second_variant_below_the_gate_scores_nothing(
    run: Run, make_job: MakeJob, source: Path, sink: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steps = (Step("fault", {"folder": str(tmp_path), "ran_on": "cuda"}),)
    monkeypatch.setitem(VARIANTS, "fake", Variant(name="fake", steps=steps, backend="faulty", about=""))
    with pytest.raises(errors.GateError, match=r"fake: .*asked for cpu, it ran on cuda"):
        run(make_job(source, sink, **MIXED, gate__sample_rows=9))
    assert not list(sink.glob("part-*"))


def test_of_two_variants_none_takes_over_where_one_cannot_be_loaded(
    make_job: MakeJob, source: Path, sink: Path, nodes: list[Node]
) -> None:
    def refuse(settings: Any) -> Any:
        raise errors.LoadError(f"no kernel on {settings.device}")

    with pytest.raises(errors.LoadError, match="cannot load the variant: no kernel on cuda"):
        optinfer.run(make_job(source, sink, **MIXED, gate__fallback="fake"), executor=InProcess(nodes, refuse))


def test_a_fallback_takes_over_where_the_first_variant_was_placed_alone_and_cannot_be_loaded(
    make_job: MakeJob, source: Path, sink: Path, nodes: list[Node]
) -> None:
    def refuse(settings: Any) -> Any:
        if settings.device == "cuda":
            raise errors.LoadError("no kernel image")
        return Replica(settings)

    job = make_job(source, sink, **MIXED, gate__fallback="fake")
    record = optinfer.run(job, executor=InProcess(nodes[:1], refuse))
    assert (record.variant, record.rows_by_variant) == ("fake", {"fake": 64})


def test_a_second_variant_has_no_use_beside_one_on_cpus_and_the_job_says_so(
    run: Run, make_job: MakeJob, source: Path, sink: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in VARIANTS if n not in ("fake", "torch-fp32")]:
        monkeypatch.delitem(VARIANTS, name)
    said: list[str] = []
    record = run(make_job(source, sink, variant="auto", placement={"cpu_variant": "fake"}), say=said.append)
    assert any(line.startswith("warning: placement.cpu_variant is left out") for line in said)
    assert (record.status, record.beside) == ("done", None)
