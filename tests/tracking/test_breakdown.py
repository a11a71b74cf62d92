"""Where the time went: the right part is named, and start-up is told step by step."""

from __future__ import annotations

import pytest

from optinfer.records.stats import Stats
from optinfer.tracking.breakdown import PARTS, break_down
from optinfer.tracking.tally import Tally
from tests.data.committing import receipt


def run_of(seconds: float = 100.0, loaded: bool = True, **parts: float) -> Tally:
    """Return the tally of one replica that was ready at 10 and committed its last fragment at 10 + `seconds`."""
    tally = Tally(rows=20, error_threshold=0)
    measured = {f"{part}_seconds": value for part, value in parts.items()}
    tally.add(receipt(0, Stats(rows_in=10, rows_out=10), {}, 11.0, "1@a"))
    tally.add(receipt(1, Stats(rows_in=10, rows_out=10, **measured), {}, 10.0 + seconds, "1@a"))
    tally.replicas = {"1@a": 10.0} if loaded else {}
    tally.first_load = (8.0, 2.0) if loaded else None
    return tally


@pytest.mark.parametrize(
    ("parts", "bottleneck", "advice"),
    [
        ({"infer": 90.0, "read": 95.0}, "infer", "the model is the limit"),
        ({"infer": 40.0, "read": 60.0, "commit": 20.0}, "read", "bring the source nearer"),
        ({"infer": 40.0, "preprocess": 60.0, "read": 20.0}, "preprocess", "more CPU threads for each replica"),
        ({"infer": 40.0, "postprocess": 60.0}, "postprocess", "ask for fewer outputs"),
        ({"infer": 40.0, "commit": 60.0}, "commit", "raise source.fragment_rows"),
        ({"infer": 40.0, "read": 5.0, "commit": 5.0}, "replicas", "fewer replicas"),
        ({"infer": 35.0, "read": 30.0, "commit": 25.0}, "read", "bring the source nearer"),
    ],
    ids=["infer", "read", "preprocess", "postprocess", "commit", "replicas", "overlapped"],
)
def test_what_the_replicas_waited_for_is_the_bottleneck(parts: dict[str, float], bottleneck: str, advice: str) -> None:
    found = break_down(run_of(**parts), started=0.0, marks={}, ended=120.0)
    assert found is not None
    assert found.bottleneck == bottleneck
    assert advice in found.advice
    assert found.model_share == parts["infer"] / 100


@pytest.mark.parametrize(
    ("parts", "bottleneck"),
    [
        ({"infer": 60.0, "preprocess": 30.0}, "infer"),
        ({"infer": 30.0, "preprocess": 60.0}, "preprocess"),
        ({"infer": 40.0, "preprocess": 10.0}, "replicas"),
    ],
)
def test_on_one_core_preprocessing_is_work_beside_the_model(parts: dict[str, float], bottleneck: str) -> None:
    found = break_down(run_of(**parts), started=0.0, marks={}, ended=120.0, one_core=True)
    assert found is not None
    assert found.bottleneck == bottleneck


@pytest.mark.parametrize(
    ("parts", "bottleneck"), [({"infer": 3.0, "read": 2.0}, "infer"), ({"infer": 2.0, "read": 3.0}, "read")]
)
def test_without_knowing_when_replicas_were_ready_the_longest_part_counts(
    parts: dict[str, float], bottleneck: str
) -> None:
    found = break_down(run_of(loaded=False, **parts), started=0.0, marks={}, ended=120.0)
    assert found is not None
    assert (found.model_share, found.bottleneck) == (None, bottleneck)


def test_a_start_longer_than_the_rest_is_the_bottleneck() -> None:
    found = break_down(run_of(seconds=5.0, infer=5.0), started=0.0, marks={}, ended=16.0)
    assert found is not None
    assert (found.bottleneck, found.advice.partition(":")[0]) == ("startup", "start-up took most of the time")


def test_start_up_is_told_step_by_step() -> None:
    found = break_down(run_of(infer=90.0), started=1.0, marks={"prepare": 3.0, "ray": 7.0}, ended=120.0)
    assert found is not None
    expected = {"prepare": 2.0, "ray": 4.0, "actors": 1.0, "load": 2.0, "first fragment": 1.0}
    assert found.startup_seconds == expected


def test_a_step_that_ended_before_the_one_in_front_of_it_took_nothing() -> None:
    found = break_down(run_of(infer=90.0), started=1.0, marks={"prepare": 3.0, "ray": 9.0}, ended=120.0)
    assert found is not None
    assert (found.startup_seconds["actors"], found.startup_seconds["load"]) == (0.0, 1.0)
    assert sum(found.startup_seconds.values()) == 11.0 - 1.0


def test_every_part_is_told() -> None:
    found = break_down(run_of(**dict.fromkeys(PARTS, 1.5)), started=0.0, marks={}, ended=120.0)
    assert found is not None
    assert found.as_dict()["replica_seconds"] == dict.fromkeys(PARTS, 1.5)


def test_a_run_that_scored_nothing_has_no_breakdown() -> None:
    assert break_down(Tally(rows=0, error_threshold=0), 0.0, {}, 1.0) is None


def test_work_that_takes_the_models_cores_is_named_beside_it() -> None:
    found = break_down(run_of(infer=90.0, preprocess=45.0), started=0.0, marks={}, ended=120.0)
    assert found is not None
    assert found.advice.endswith("; preprocess is 33% of the replicas' work")
