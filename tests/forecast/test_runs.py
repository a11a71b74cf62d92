"""What a run leaves for the next forecast, and what that makes of it; none of it is part of the run, which is done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import optinfer
from optinfer.commands.plan import plan
from optinfer.commands.resolved import resolve
from optinfer.config import JobConfig
from optinfer.forecast import observed
from optinfer.forecast.foretold import steady_speed
from optinfer.records.observation import CERTIFICATE, IN_PROCESS, ON_RAY
from optinfer.records.run import RunRecord
from optinfer.system import home
from optinfer.tracking.tally import Pace, Tally
from optinfer.tuning.kept import machine
from tests.conftest import MakeJob, WriteTable
from tests.forecast.test_parts import RUN

pytestmark = pytest.mark.usefixtures("own_home")

Job = Callable[..., JobConfig]


@pytest.fixture
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / "home"))


@pytest.fixture
def job(make_job: MakeJob, write_table: WriteTable, tmp_path: Path, fake_variant: str) -> Job:
    """Return a function from a sink's name and changes to a job of 96 rows in six fragments."""
    table = write_table(tmp_path / "t.parquet", rows=96)
    return lambda sink="out", **changes: make_job(table, tmp_path / sink, **changes)


@pytest.fixture
def run(job: Job, without_ray: None) -> Callable[..., RunRecord]:
    return lambda *arguments, **changes: optinfer.run(job(*arguments, **changes))


def kept(config: JobConfig) -> list[dict[str, object]]:
    model = resolve(config).subject.model.key
    file = home.home() / "observed" / f"{model}-fake.json"
    runs: list[dict[str, object]] = json.loads(file.read_text())["runs"] if file.exists() else []
    return runs


def planted(config: JobConfig, **changes: object) -> None:
    """Keep a run of the job on Ray here, as if it had been done."""
    told = plan(resolve(config)).placement[0]
    here = {"machine": str(machine()), "replicas": told.replicas, "threads": told.threads_per_replica}
    model = resolve(config).subject.model.key
    observed.keep(replace(RUN, **{"model": model, "variant": "fake", "where": ON_RAY, **here, **changes}))  # type: ignore[arg-type]


def test_a_run_leaves_its_parts_and_the_next_one_is_foretold_from_them(run: Callable[..., RunRecord], job: Job) -> None:
    first = run()
    assert first.forecast is not None
    assert "no run corrects it yet" in first.forecast.basis
    assert first.time is not None
    proving = first.time.startup_seconds["prepare"]
    assert first.forecast.actual.seconds == pytest.approx(first.seconds - proving, abs=0.01)
    (one,) = kept(job())
    assert (one["where"], one["basis"], one["rows"], one["variant"]) == (IN_PROCESS, CERTIFICATE, 96, "fake")
    assert one["prepare"] is None, "it was proved in this run, which happens once"
    assert all(isinstance(one[name], float) for name in ("ray", "actors", "load", "first", "closing", "recording"))
    second = run("second")
    told = second.forecast
    assert told is not None
    assert "as in a run of it here" in told.basis
    assert told.low_seconds < told.seconds < told.high_seconds  # type: ignore[operator]
    assert told.error_percent == pytest.approx((told.seconds / told.actual.seconds - 1) * 100)  # type: ignore[operator]
    assert told.actual.seconds == pytest.approx(second.seconds, abs=0.01), "nothing was proved: all of it counts"
    assert kept(job())[-1]["prepare"] is not None
    width = [t.high_seconds / t.low_seconds for t in (first.forecast, told)]  # type: ignore[operator]
    assert width[1] < width[0]


def test_a_planted_history_moves_the_forecast_as_it_says(run: Callable[..., RunRecord], job: Job) -> None:
    run()
    before = plan(resolve(job("other"))).forecast
    speed = before.rows_per_second
    assert speed
    for _ in range(3):
        planted(job("other"), measured=speed, steady=speed / 40, actors=50.0, closing=30.0)
    after = plan(resolve(job("other"))).forecast
    assert "times 0.03, as in 3 runs of it here" in after.basis
    assert after.scoring_seconds / before.scoring_seconds == pytest.approx(40 / 1.15, rel=1e-6)  # type: ignore[operator]
    assert after.startup_seconds > 50  # type: ignore[operator]
    assert after.closing_seconds == pytest.approx(32.0)
    assert after.low_seconds > before.seconds  # type: ignore[operator]


def test_another_models_runs_here_correct_the_first_forecast_of_this_one(
    run: Callable[..., RunRecord], job: Job
) -> None:
    run()
    planted(job("other"), model="another", actors=50.0)
    told = plan(resolve(job("other"))).forecast
    assert "as in a run of other models here" in told.basis
    assert told.startup_seconds > 50  # type: ignore[operator]


def test_what_is_left_of_a_resumed_run_is_foretold(run: Callable[..., RunRecord], tmp_path: Path) -> None:
    run()
    for name in ("_SUCCESS", "_manifest.json", "part-000001.parquet"):
        (tmp_path / "out" / name).unlink()
    resumed = run()
    assert resumed.fragments_resumed == resumed.fragments - 1
    assert resumed.forecast is not None
    assert resumed.forecast.rows == 96 // resumed.fragments
    (tmp_path / "out" / "_SUCCESS").unlink()
    (tmp_path / "out" / "_manifest.json").unlink()
    whole = run()
    assert whole.fragments_resumed == whole.fragments
    assert whole.forecast is not None
    assert (whole.forecast.rows, whole.forecast.seconds, whole.forecast.error_percent) == (0, None, None)


def test_trying_quarantined_rows_again_is_no_run_like_others(job: Job, run: Callable[..., RunRecord]) -> None:
    null = {"id": [str(i) for i in range(40)], "text": [None, *(f"text {i}" for i in range(39))]}
    import pyarrow as pa
    import pyarrow.parquet as pq

    config = job(sink__error_threshold=0.5)
    pq.write_table(pa.table(null), config.source.path)
    optinfer.run(config)
    again = optinfer.run(config, retry=True)
    assert again.forecast is None
    assert len(kept(config)) == 1


def test_a_bounded_number_of_runs_is_kept(own_home: None) -> None:
    for count in range(observed.MOST + 5):
        observed.keep(replace(RUN, rows=count))
    past = observed.past("m", "v", RUN.machine)
    assert [run.rows for run in past.own] == list(range(5, observed.MOST + 5))
    assert past.others == past.own


@pytest.mark.parametrize("damage", ["{", "[]", '{"runs": 3}', '{"runs": [{"at": "now"}]}'])
def test_a_damaged_history_is_none_and_the_next_run_begins_another(own_home: None, damage: str) -> None:
    observed.keep(RUN)
    (file,) = (home.home() / "observed").glob("m-*.json")
    file.write_text(damage)
    assert observed.past("m", "v", RUN.machine).own == ()
    observed.keep(RUN)
    assert observed.past("m", "v", RUN.machine).own == (RUN,)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_run_with_numbers_that_no_run_has_is_left_out(own_home: None, value: float) -> None:
    observed.keep(replace(RUN, steady=value))
    observed.keep(RUN)
    assert observed.past("m", "v", RUN.machine).own == (RUN,)


def test_what_cannot_be_kept_ends_no_run(run: Callable[..., RunRecord], job: Job) -> None:
    model = resolve(job()).subject.model.key
    in_its_place = home.home() / "observed" / f"{model}-fake.json"
    in_its_place.mkdir(parents=True)
    assert run().status == "done"
    assert in_its_place.is_dir()


def test_the_start_up_that_earlier_versions_kept_is_still_known(run: Callable[..., RunRecord], job: Job) -> None:
    run()
    model = resolve(job("other")).subject.model.key
    shutil.rmtree(home.home() / "observed")
    folder = home.home() / "startup"
    folder.mkdir()
    (folder / f"{model}-fake.json").write_text(json.dumps({"seconds": 123.0}))
    told = plan(resolve(job("other"))).forecast
    assert "start-up as in the last run" in told.basis
    assert told.startup_seconds == pytest.approx(123.0, abs=10)


def test_a_replicas_first_fragment_says_nothing_of_its_speed_unless_most_of_its_rows_are_in_it() -> None:
    tally = Tally(1000, 0.0)
    tally.replicas = {"a": 100.0, "b": 100.0}
    tally.paces = {
        "a": Pace(first=110.0, last=120.0, rows=400, total=500),  # 40 a second, once it was warm
        "b": Pace(first=125.0, last=125.0, rows=0, total=500),  # 20 a second, all in all
    }
    assert steady_speed(tally) == pytest.approx(60.0)
    assert steady_speed(Tally(1000, 0.0)) is None


def test_a_forecast_of_no_rows_is_none(job: Job, run: Callable[..., RunRecord]) -> None:
    run()
    told = plan(resolve(job())).forecast
    assert (told.rows, told.seconds, told.basis) == (0, None, "nothing is left to score")
