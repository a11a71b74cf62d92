"""`tune`: the search of one job, from its first trial to the run that uses what won."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import optinfer
from optinfer.commands.resolved import resolve
from optinfer.commands.tune import tune
from optinfer.config import JobConfig
from optinfer.errors import ConfigError, GateError, OptinferError
from optinfer.inference.replica import ReplicaSettings
from optinfer.job_file import load_job
from optinfer.optimization.selection import candidates, known
from optinfer.optimization.variants import VARIANTS, Step, Variant
from optinfer.optimization.workbench import Workbench
from optinfer.records.text import tune_text
from optinfer.records.tuning import NodeSpeed, TuneRecord
from optinfer.system import home
from optinfer.tuning.node_trials import Effort
from tests.conftest import MakeJob, RunCli, WriteTable, everything_under

pytestmark = pytest.mark.usefixtures("fake_variant", "own_home")

BEST_BUDGET = 8192


@pytest.fixture
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / "home"))


@pytest.fixture
def job(make_job: MakeJob, write_table: WriteTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function from changes to a job that chooses between the baseline and the fake, with a small sample."""
    for name in [n for n in VARIANTS if n not in ("torch-fp32", "fake")]:
        monkeypatch.delitem(VARIANTS, name)
    table = write_table(tmp_path / "t.parquet", rows=96)
    return lambda **changes: make_job(
        table,
        tmp_path / "out",
        **{
            "variant": "fake",
            "source__fragment_rows": 96,
            "tuning__sample_rows": 64,
            "tuning__max_memory_mb": 1e6,
            "model__max_length": 32,
            **changes,
        },
    )


class Measured(list[ReplicaSettings]):
    """What was tried on a node that is fastest with BEST_BUDGET and one-thread replicas."""

    def tune(self, config: JobConfig, **options: Any) -> TuneRecord:
        """Tune on that node."""
        return tune(config, **options, effort=Effort(measure=self._measure))

    def _measure(self, settings: ReplicaSettings, sample: pa.Table, replicas: int, *_: Any) -> NodeSpeed:
        self.append(settings)
        budget = settings.max_batch_tokens or 4096
        rate = 100 * replicas + (200 if budget == BEST_BUDGET else 0)
        return NodeSpeed(
            rows_per_second=rate, seconds=1.0, rows=sample.num_rows, rows_rejected=0, peak_rss_mb=6000.0,
            memory_mb=6000.0 * replicas, micro_batches=4, micro_batch_p50_ms=1.0, micro_batch_p99_ms=2.0,
            padding_fraction=0.0,
        )  # fmt: skip


@pytest.fixture
def measured() -> Measured:
    return Measured()


def ticking() -> Callable[[], float]:
    """Return a clock that a trial moves by a second: it is read three times for each."""
    seconds = itertools.count(0, 1)
    return lambda: float(next(seconds))


def bench_of(config: Any, lines: list[str] | None = None) -> Workbench:
    planned = resolve(config)
    return planned.bench((lines if lines is not None else []).append)


class TestWinner:
    def test_the_best_settings_are_found_kept_and_proved(self, job: Any, measured: Measured, tmp_path: Path) -> None:
        record = measured.tune(job())
        winner = record.winner
        assert (winner.variant, winner.max_batch_tokens) == ("fake", BEST_BUDGET)
        assert winner.rows_per_second == winner.default_rows_per_second + 200
        assert len(record.trials) == len(record.space.points), "a small space is tried whole"
        assert Path(record.record).is_file()
        assert Path(record.plot).read_bytes().startswith(b"\x89PNG")
        assert not (tmp_path / "out").exists(), "nothing is scored"

    def test_the_default_is_tried_first_and_the_sample_is_held_against_the_table(
        self, job: Any, measured: Measured
    ) -> None:
        record = measured.tune(job(model__max_length=128))
        assert record.trials[0].point == record.default
        assert record.sample.rows == 64
        assert record.sample.lengths.p90 > record.sample.lengths.p50 > 0
        assert record.sample.largest_deviation < 0.5

    def test_the_next_job_scores_with_it_and_measures_nothing(self, job: Any, measured: Measured) -> None:
        measured.tune(job())
        lines: list[str] = []
        prepared = next(candidates(bench_of(job(), lines)))
        assert prepared.settings.max_batch_tokens == BEST_BUDGET
        assert prepared.tuned is not None
        assert prepared.tuned.threads_per_replica == 1
        assert lines == []
        assert known(bench_of(job())) == replace(prepared, settings=replace(prepared.settings, canary=None))

    def test_auto_takes_what_was_tuned_and_an_output_that_is_resumed_keeps_its_variant(
        self, job: Any, measured: Measured
    ) -> None:
        measured.tune(job(variant="auto"))
        lines: list[str] = []
        chosen = next(candidates(bench_of(job(variant="auto"), lines)))
        assert (chosen.variant.name, chosen.settings.max_batch_tokens) == ("fake", BEST_BUDGET)
        assert "won `optinfer tune`" in dict(chosen.not_chosen)["torch-fp32"]
        assert lines == []
        bound = next(candidates(bench_of(job(variant="auto")), only="torch-fp32"))
        assert (bound.variant.name, bound.tuned) == ("torch-fp32", None)

    def test_what_was_tuned_is_proved_anew_and_the_rest_takes_over_where_it_fails(
        self, job: Any, measured: Measured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        measured.tune(job(variant="auto"))
        (tmp_path / "refuse").touch()
        steps = (Step("fault", {"folder": str(tmp_path)}),)  # from now on it cannot be loaded
        monkeypatch.setitem(VARIANTS, "fake", Variant(name="fake", steps=steps, backend="faulty", about=""))
        chosen = next(candidates(bench_of(job(variant="auto"))))
        assert chosen.variant.name == "torch-fp32"
        assert "no kernel for this device" in dict(chosen.not_chosen)["fake as tuned"]

    def test_settings_that_the_user_fixed_are_not_searched(self, job: Any, measured: Measured) -> None:
        record = measured.tune(job(batching={"max_batch_tokens": 512}, placement={"threads_per_replica": 1}))
        assert {t.point.budget for t in record.trials} == {512}
        assert {t.point.threads for t in record.trials} == {1}
        assert {settings.max_batch_tokens for settings in measured} == {512}


class TestTrials:
    def test_no_trial_begins_after_the_time_budget(self, job: Any, measured: Measured) -> None:
        record = measured.tune(job(tuning__time_budget=7.0), clock=ticking())
        assert 0 < len(record.trials) < len(record.space.points)

    def test_a_search_that_was_cut_off_goes_on(self, job: Any, measured: Measured) -> None:
        def cut(line: str) -> None:
            if line.startswith("trial 3"):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            measured.tune(job(), say=cut)
        assert len(measured) == 3
        record = measured.tune(job())
        assert record.trials_earlier == 3
        points = [t.point for t in record.trials]
        assert len(set(points)) == len(points) == len(record.space.points)

    def test_settings_that_take_too_much_memory_do_not_win(self, job: Any, measured: Measured) -> None:
        record = measured.tune(job(tuning__max_memory_mb=8000.0))
        assert record.winner.replicas == 1
        assert record.winner.default_rows_per_second is None or record.default.replicas == 1
        too_large = [t for t in record.trials if t.point.replicas > 1]
        assert all("MB, 8000 are allowed" in t.reason for t in too_large)
        with pytest.raises(OptinferError, match=r"tuning\.max_memory_mb"):
            measured.tune(job(tuning__max_memory_mb=1.0))

    @pytest.mark.slow
    def test_settings_whose_replicas_are_killed_are_failed_trials_and_the_search_goes_on(
        self, job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = job(batching={"max_batch_size": 200}, placement={"threads_per_replica": 1, "replicas": 1})
        (tmp_path / "calls").mkdir()
        # 96 rows of at most 32 tokens: the default (4,096 tokens) may see all 64 of the sample, half of it may not.
        steps = (Step("fault", {"folder": str(tmp_path), "die_at_rows": 64}),)
        monkeypatch.setitem(VARIANTS, "fake", Variant(name="fake", steps=steps, backend="faulty", about=""))
        record = tune(config, effort=Effort(below=4, above=1, rivals=1, rounds=1))
        killed = {t.point.budget for t in record.trials if "ended by SIGKILL" in t.reason}
        assert 4096 in killed
        assert 1024 not in killed
        assert record.winner.max_batch_tokens not in {0, *killed}
        assert record.winner.default_rows_per_second is None
        assert record.winner.rows_per_second > 0


class TestRefusals:
    def test_cost_without_a_price_is_refused_with_the_key(self, job: Any) -> None:
        with pytest.raises(ConfigError, match=r"set placement\.cost_per_hour: \{cpu: "):
            optinfer.tune(job(tuning__objective="cost"))

    def test_cost_is_searched_for_where_there_is_a_price(self, job: Any, measured: Measured) -> None:
        record = measured.tune(job(tuning__objective="cost", placement={"cost_per_hour": {"cpu": 0.36}}))
        best = min(t.value for t in record.trials if t.value is not None)
        assert best == pytest.approx(1e6 / record.winner.rows_per_second * 0.0001)

    def test_a_named_variant_below_its_gate_is_not_searched(self, job: Any, measured: Measured) -> None:
        with pytest.raises(GateError, match="fake does not pass the gate"):
            measured.tune(job(gate={"min": 0.9999, "sample_rows": 8}))
        assert measured == []

    def test_a_table_without_rows_is_refused(self, job: Any, write_table: WriteTable, tmp_path: Path) -> None:
        empty = write_table(tmp_path / "empty.parquet", rows=0)
        with pytest.raises(ConfigError, match="its table has none"):
            optinfer.tune(job(source__path=str(empty)))


def test_mlflow_has_a_run_for_each_trial(job: Any, measured: Measured, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    one = {"batching": {"max_batch_tokens": 512}, "tracking": {"experiment": "t", "uri": uri}}
    record = measured.tune(job(**one))
    client = MlflowClient(tracking_uri=uri)
    parent = client.get_run(record.mlflow.run_id)
    children = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert len(children) == len(record.trials)
    assert all("node/rows_per_second" in run.data.metrics for run in children)
    assert parent.data.tags["optinfer.winner"] == "fake"
    assert {f.path for f in client.list_artifacts(parent.info.run_id)} == {"record.json", "table.md", "tuning.png"}


@pytest.mark.usefixtures("without_ray")
def test_a_run_has_its_forecast_beside_what_came_of_it(job: Any, measured: Measured) -> None:
    config = job(source__fragment_rows=16, placement={"cost_per_hour": {"cpu": 3.6}})
    shutil.rmtree(home.home() / "observed", ignore_errors=True)
    measured.tune(config)
    told = optinfer.run(config).forecast
    assert told.basis.startswith("tuned on ")
    assert "no run corrects it yet; start-up stated, no run here was done yet" in told.basis
    assert told.cost == pytest.approx(told.seconds * 0.001)
    assert told.actual.seconds > 0
    again = config.model_copy(update={"sink": config.sink.model_copy(update={"path": f"{config.sink.path}2"})})
    second = optinfer.run(again).forecast
    assert second.startup_seconds > 0
    assert "as in a run of it here" in second.basis
    assert second.error_percent == pytest.approx((second.seconds / second.actual.seconds - 1) * 100)


def test_plan_forecasts_from_the_cache_and_says_what_to_run_where_there_is_nothing(
    job: Any, write_job: Any, run_cli: RunCli, measured: Measured, tmp_path: Path
) -> None:
    config = job()
    path = write_job(config.source.path, tmp_path / "out", tuning__sample_rows=64, model__max_length=32, variant="fake")
    _, before, _ = run_cli("plan", path)
    assert "`optinfer tune JOB.yaml`" in before
    assert "times the default's" in tune_text(measured.tune(load_job(path)))
    files = everything_under(tmp_path)
    _, after, _ = run_cli("plan", path)
    assert "tuned on " in after
    assert everything_under(tmp_path) == files, "plan writes nothing"
