"""A tuning record is found by jobs like the one it was made for, and by no others."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optinfer.config import JobConfig
from optinfer.records.tuning import Lengths, Tuned
from optinfer.tuning.kept import carried, lookup, machine, read, write
from tests.conftest import MakeJob


def like(mean: float) -> Lengths:
    return Lengths(mean=mean, p50=mean, p90=2 * mean, p99=3 * mean)


TUNED = Tuned(
    variant="fake",
    max_batch_tokens=8192,
    max_batch_size=0,
    replicas=2,
    threads_per_replica=1,
    rows_per_second=300.0,
    default_rows_per_second=200.0,
    peak_rss_mb=500.0,
    lengths=like(90.0),
    measured_at="2026-11-24T12:00:00+00:00",
    versions={},
)


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / "home"))


@pytest.fixture
def job(make_job: MakeJob) -> Any:
    return lambda **changes: make_job("t.parquet", "out", **{"variant": "auto", **changes})


def found(config: JobConfig, model: str = "m", metric: str = "cosine", mean: float = 90.0) -> Tuned | None:
    return lookup(model, config, metric, like(mean))


def test_what_is_written_is_read(job: Any) -> None:
    assert read(write(TUNED, "m", job(), "cosine")) == TUNED
    assert found(job()) == TUNED


def test_lengths_nearby_share_a_record_and_others_do_not(job: Any) -> None:
    write(TUNED, "m", job(), "cosine")
    assert found(job(), mean=80.0) == found(job(), mean=105.0) == TUNED
    assert found(job(), mean=30.0) is found(job(), mean=400.0) is None


def test_the_nearest_of_two_records_is_taken(job: Any) -> None:
    write(TUNED, "m", job(), "cosine")
    longer = replace(TUNED, lengths=like(128.0))
    write(longer, "m", job(), "cosine")
    assert found(job(), mean=130.0) == longer


@pytest.mark.parametrize(
    "changes",
    [
        {"gate": {"min": 0.5}},
        {"gate": {"min": -1.0, "require_batch_invariance": True}},
        {"placement": {"threads_per_replica": 2}},
        {"placement": {"replicas": 1}},
        {"batching": {"max_batch_tokens": 512}},
        {"batching": {"max_batch_size": 8}},
    ],
    ids=str,
)
def test_another_gate_or_another_fixed_setting_is_another_search(job: Any, changes: dict[str, Any]) -> None:
    write(TUNED, "m", job(gate={"min": -1.0}), "cosine")
    assert found(job(gate={"min": -1.0})) == TUNED
    assert found(job(**{"gate": {"min": -1.0}, **changes})) is None


def test_another_model_or_metric_or_machine_finds_nothing(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from optinfer.tuning import kept as tuned

    write(TUNED, "m", job(), "cosine")
    assert found(job(), model="other") is found(job(), metric="r2") is None
    monkeypatch.setattr(tuned, "cpu_features", lambda: ["another"])
    assert found(job()) is None


def test_rows_of_the_gates_sample_do_not_matter(job: Any) -> None:
    write(TUNED, "m", job(gate={"sample_rows": 16}), "cosine")
    assert found(job(gate={"sample_rows": 64})) == TUNED


def test_a_named_variant_uses_what_auto_found_where_it_is_the_same(job: Any) -> None:
    write(TUNED, "m", job(), "cosine")
    assert found(job(variant="fake")) == TUNED
    assert found(job(variant="torch-fp32")) is None


def test_a_record_knows_that_packages_changed() -> None:
    assert TUNED.stale == ""
    assert replace(TUNED, versions={"numpy": "0.1"}).stale.startswith("numpy 0.1, here ")


def test_rows_without_lengths_have_a_bucket_of_their_own(job: Any) -> None:
    write(replace(TUNED, lengths=Lengths.of(None)), "m", job(), "cosine")
    assert lookup("m", job(), "cosine", Lengths.of(None)) is not None
    assert found(job(), mean=2.0) is None


def test_quantiles_are_those_of_the_lengths() -> None:
    lengths = Lengths.of(np.arange(1, 102))
    assert (lengths.mean, lengths.p50, lengths.p90, lengths.p99) == (51.0, 51.0, 91.0, 100.0)


def test_a_record_names_its_kind_of_node_and_is_found_on_no_other(job: Any) -> None:
    four = replace(TUNED, node=machine(cpus=4))
    assert read(write(four, "m", job(), "cosine")) == four
    assert lookup("m", job(), "cosine", like(90.0), cpus=4) == four
    assert lookup("m", job(), "cosine", like(90.0), cpus=2) is None


def test_records_that_travel_are_found_where_there_is_no_home(
    job: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(replace(TUNED, node=machine(cpus=4)), "m", job(), "cosine")
    write(replace(TUNED, lengths=like(400.0)), "m", job(), "cosine").write_text("damaged")
    sent = pickle.dumps(carried().lookup)
    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / "another home"))
    there = pickle.loads(sent)
    assert there("m", job(), "cosine", like(90.0), 4).node.cpus == 4
    assert there("m", job(), "cosine", like(90.0), 2) is None
    assert there("m", job(), "cosine", like(400.0), 4) is None
