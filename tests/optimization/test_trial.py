"""A candidate is measured in a process of its own: what it does there, it does to itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from optinfer.errors import ConfigError, LoadError, OptinferError
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.optimization import kept
from optinfer.optimization.baseline import Answers
from optinfer.optimization.certificate import Exam
from optinfer.optimization.trial import certify_apart
from tests.conftest import located

TEXTS = pa.table({"text": [f"package number {i} " + "word " * i for i in range(24)]})


@pytest.fixture
def arguments(tmp_path: Path) -> list[Any]:
    """Return what `certify` takes for the fake backend, whose answers are their own baseline."""
    model = located()
    settings = ReplicaSettings(family="text-embedding", model=model, backend="fake", artifact=model)
    scored = Replica(settings).score(TEXTS)
    baseline = Answers(scored.outputs, scored.kept, 0.0)
    return ["fake", settings, Exam(TEXTS, None, baseline, "cosine", tmp_path.name)]


def faulty(arguments: list[Any], folder: Path, **faults: Any) -> list[Any]:
    (folder / "calls").mkdir()
    artifact = replace(arguments[1].artifact, load_options={"folder": str(folder), **faults})
    return ["faulty", replace(arguments[1], backend="faulty", artifact=artifact), *arguments[2:]]


def test_what_a_trial_measures_may_be_kept_for_the_next_job(arguments: list[Any]) -> None:
    certificate = certify_apart(*arguments, time_limit=120)
    assert kept.put(certificate, arguments[1]) == certificate
    assert kept.read(arguments[1], certificate.sample) == certificate
    assert certificate.fidelity.value == pytest.approx(1.0)
    assert certificate.batch_invariant
    assert certificate.micro_batches > 0
    assert 0.05 < certificate.start_seconds < 60, "a process that imports numpy, and has loaded nothing yet"
    low, high = certificate.rows_per_second_range
    assert low <= certificate.rows_per_second <= high * 1.01
    assert 50 < certificate.peak_rss_mb < 5000


def test_rows_that_kill_the_candidates_process_count_against_it(arguments: list[Any], tmp_path: Path) -> None:
    certificate = certify_apart(*faulty(arguments, tmp_path, die_at_width=28), time_limit=120)
    assert certificate.start_seconds is None, "its process had scored rows before"
    lengths = Replica(arguments[1]).family.preprocess(TEXTS).lengths
    assert lengths is not None
    deadly = float((lengths >= 28).mean())
    assert 0 < deadly < 0.2
    assert certificate.fidelity.worst == 0.0
    assert certificate.fidelity.value == pytest.approx(1 - deadly)


def test_a_candidate_that_every_row_kills_leaves_the_job_alive(arguments: list[Any], tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="the replica's process ends with every row that was tried: SIGKILL"):
        certify_apart(*faulty(arguments, tmp_path, die_at_width=1), time_limit=120)


def test_a_candidate_that_hangs_is_ended(arguments: list[Any], tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "hold")
    with pytest.raises(OptinferError, match=r"more than 4 s and was ended; raise selection\.time_budget"):
        certify_apart(*faulty(arguments, tmp_path, hold_after=0), time_limit=4)


def test_an_error_in_the_trial_is_raised_here_as_itself(arguments: list[Any]) -> None:
    with pytest.raises(ConfigError, match="no backends plugin 'no-such'"):
        certify_apart(arguments[0], replace(arguments[1], backend="no-such"), *arguments[2:], time_limit=120)


def test_rows_the_candidate_cannot_score_count_against_it(arguments: list[Any]) -> None:
    outputs = {name: np.concatenate([v, v[:1]]) for name, v in arguments[2].baseline.outputs.items()}
    more = Answers(outputs, np.arange(25), 0.0)
    table = pa.table({"text": [*TEXTS["text"].to_pylist(), None]})
    certificate = certify_apart(*arguments[:2], Exam(table, None, more, "cosine", "with-null"), time_limit=120)
    assert certificate.fidelity.worst == 0.0
