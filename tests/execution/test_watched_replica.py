"""A replica whose model hangs ends its process, in time for its fragment to be tried row by row."""

from __future__ import annotations

import queue
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from optinfer.execution.watched_replica import Pulse, WatchedReplica
from optinfer.inference.isolation import Patience
from optinfer.inference.replica import ReplicaSettings
from optinfer.models.artifact import Artifact
from tests.conftest import located

ROWS = np.array([0], dtype=np.int64)
NO_ROWS = np.array([], dtype=np.int64)


def test_silence_counts_from_the_last_step_and_only_while_there_is_work() -> None:
    now = [0.0]
    pulse = Pulse(Patience(first=600.0, least=60.0, times=50.0), clock=lambda: now[0])
    now[0] = 10_000.0
    assert pulse.silent() == "", "nobody works"
    with pulse.busy():
        now[0] += 599.0
        pulse.beat(NO_ROWS)
        pulse.beat(ROWS)
        now[0] += 599.0
        assert pulse.silent() == "", "the first micro-batch may compile"
        pulse.beat(ROWS)
        now[0] += 599.0 * 50 - 1
        assert pulse.silent() == "", "one that is slow is slow again"
        pulse.beat(ROWS)
    now[0] += 1e6
    assert pulse.silent() == ""


@pytest.mark.parametrize(("steps", "allowed"), [([], 600.0), ([0.1], 60.0), ([2.0], 100.0)])
def test_a_step_that_takes_far_longer_than_those_before_is_told(steps: list[float], allowed: float) -> None:
    now = [0.0]
    pulse = Pulse(Patience(first=600.0, least=60.0, times=50.0), clock=lambda: now[0])
    with pulse.busy():
        pulse.beat(ROWS)
        for step in steps:
            now[0] += step
            pulse.beat(ROWS)
        now[0] += allowed + 1
        assert pulse.silent() == f"its model made no step for {allowed + 1:.0f} s"


def test_a_model_that_hangs_ends_the_process(tmp_path: Path) -> None:
    (folder := tmp_path / "calls").mkdir()
    model = located()
    options = {"folder": str(folder.parent), "hang_at_width": 1}
    hanging = Artifact(**{**model.__dict__, "load_options": options})
    settings = ReplicaSettings(family="text-embedding", model=model, backend="faulty", artifact=hanging)
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()
    replica = WatchedReplica(settings, Patience(first=0.1), ended.put)
    threading.Thread(target=replica.score, args=(pa.table({"text": ["hangs"]}),), daemon=True).start()
    assert "made no step" in ended.get(timeout=60)
