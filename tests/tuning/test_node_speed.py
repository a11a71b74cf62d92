"""Replicas of a node are measured together, in real processes; one that dies or hangs ends the trial and leaves none."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

from optinfer.errors import OptinferError
from optinfer.inference.replica import ReplicaSettings
from optinfer.tuning.node_speed import measure_node
from tests.conftest import located

TEXTS = pa.table({"text": [f"package number {i} " + "word " * (i % 40) for i in range(96)]})


def settings(backend: str = "fake", **faults: Any) -> ReplicaSettings:
    model = located()
    artifact = replace(model, load_options=faults)
    return ReplicaSettings(family="text-embedding", model=model, backend=backend, artifact=artifact, threads=1)


def started_here() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if "optinfer.tuning.node_speed" in p.cmdline()]


def test_every_replica_scores_all_rows_and_the_time_is_that_of_all_together() -> None:
    speed = measure_node(settings(), TEXTS, replicas=2, part_rows=32, time_limit=120)
    assert speed.rows == 2 * TEXTS.num_rows
    assert speed.rows_rejected == 0
    assert speed.rows_per_second == pytest.approx(speed.rows / speed.seconds)
    assert speed.peak_rss_mb < speed.memory_mb <= 2 * speed.peak_rss_mb
    assert speed.micro_batches >= 6
    assert started_here() == []


def test_a_micro_batch_limit_reaches_the_replica() -> None:
    small = measure_node(replace(settings(), max_batch_tokens=64), TEXTS, 1, 96, 120)
    large = measure_node(replace(settings(), max_batch_tokens=4096), TEXTS, 1, 96, 120)
    assert small.micro_batches > large.micro_batches


def test_a_replica_that_is_killed_is_the_trials_reason_and_the_others_end_with_it(tmp_path: Path) -> None:
    (tmp_path / "calls").mkdir()
    (tmp_path / "die").touch()
    with pytest.raises(OptinferError, match="a replica's process was ended by SIGKILL"):
        measure_node(settings("faulty", folder=str(tmp_path), die_once=True), TEXTS, 2, 32, 120)
    assert started_here() == []


def test_replicas_that_hang_are_ended(tmp_path: Path) -> None:
    (tmp_path / "calls").mkdir()
    os.mkfifo(tmp_path / "hold")
    with pytest.raises(OptinferError, match="took more than 6 s and were ended"):
        measure_node(settings("faulty", folder=str(tmp_path), hold_after=1), TEXTS, 2, 32, 6)
    assert started_here() == []


def test_an_error_of_a_replica_is_told_as_it_was() -> None:
    with pytest.raises(OptinferError, match="no backends plugin 'no-such'"):
        measure_node(settings("no-such"), TEXTS, 1, 32, 120)
