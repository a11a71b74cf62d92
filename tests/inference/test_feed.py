"""On a device the next micro-batch is made ready while this one is in the model; on a CPU nothing is made ahead."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from optinfer.backends import Arrays, Session
from optinfer.errors import UnavailableError
from optinfer.inference.replica import Replica, ReplicaSettings
from tests.conftest import located

OUTPUT = "sentence_embedding"
ROWS = 12
PATIENCE = 30.0


class Staged:
    """What only a session that staged it can read."""

    def __init__(self, inputs: Arrays) -> None:
        self.inputs = inputs


class Device(Session):
    """Takes staged inputs only, where `stages`; tells which micro-batches (by their longest row) it has seen."""

    def __init__(self, inner: Callable[[Arrays], Arrays], stages: bool = True) -> None:
        self._inner, self._stages = inner, stages
        self.staged: list[int] = []
        self.called: list[int] = []
        self.threads: set[str] = set()
        self.on_stage: Callable[[int], None] = lambda width: None
        self.on_call: Callable[[int], None] = lambda width: None

    def stage(self, inputs: Arrays) -> Any:
        self.threads.add(threading.current_thread().name)
        width = inputs["input_ids"].shape[1]
        self.staged.append(width)
        self.on_stage(width)
        return Staged(inputs)

    def __call__(self, inputs: Arrays | Staged) -> Arrays:
        given = inputs.inputs if isinstance(inputs, Staged) else inputs
        width = given["input_ids"].shape[1]
        self.called.append(width)
        self.on_call(width)
        return self._inner(given)

    def executed(self) -> dict[str, Any]:
        return {}


@pytest.fixture(scope="module")
def settings() -> ReplicaSettings:
    model = located()
    return ReplicaSettings(
        family="text-embedding", model=model, backend="fake", artifact=model, max_batch_tokens=1000, max_batch_size=2
    )


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return pa.table({"text": ["a " * n for n in range(1, ROWS + 1)]})


@pytest.fixture(scope="module")
def expected(settings: ReplicaSettings, table: pa.Table) -> Any:
    return Replica(settings).score(table).outputs[OUTPUT]


# The longest rows go first, in twos; each is two longer than its words.
WIDTHS = list(range(ROWS + 2, 2, -2))


def on(device: str, settings: ReplicaSettings) -> tuple[Replica, Device]:
    replica = Replica(replace(settings, device=device))
    replica.score(pa.table({"text": ["a"]}))
    session = Device(replica.session)
    replica.session = session
    return replica, session


def test_the_next_one_is_staged_while_the_model_works(
    settings: ReplicaSettings, table: pa.Table, expected: Any
) -> None:
    replica, session = on("cuda", settings)
    arrived = {width: threading.Event() for width in WIDTHS}
    session.on_stage = lambda width: arrived[width].set()

    def wait_for_the_next(width: int) -> None:
        if width != WIDTHS[-1]:
            assert arrived[width - 2].wait(PATIENCE)

    session.on_call = wait_for_the_next
    scored = replica.score(table)
    assert session.called == session.staged == WIDTHS
    assert session.threads == {"optinfer-feed_0"}
    np.testing.assert_allclose(scored.outputs[OUTPUT], expected, atol=1e-6)


def test_no_more_than_one_is_staged_ahead(settings: ReplicaSettings, table: pa.Table) -> None:
    replica, session = on("cuda", settings)
    ahead: list[int] = []
    session.on_call = lambda width: ahead.append(len(session.staged) - len(session.called))
    replica.score(table)
    assert max(ahead) <= 1


def test_on_a_cpu_nothing_is_staged(settings: ReplicaSettings, table: pa.Table, expected: Any) -> None:
    replica, session = on("cpu", settings)
    scored = replica.score(table)
    assert (session.staged, session.called) == ([], WIDTHS)
    np.testing.assert_allclose(scored.outputs[OUTPUT], expected, atol=1e-6)


@pytest.mark.parametrize("fails_in", ["on_stage", "on_call"])
def test_an_error_costs_only_the_micro_batch_it_happened_in(
    settings: ReplicaSettings, table: pa.Table, fails_in: str
) -> None:
    replica, session = on("cuda", settings)
    culprit = 10

    def fail(width: int) -> None:
        if width == culprit:
            raise ValueError("shape mismatch")

    if fails_in == "on_stage":
        session.on_stage = fail
    else:
        session.on_call = fail
    scored = replica.score(table)
    # Rows are tried alone, unstaged: what cannot be staged together may still be scored.
    rejected = {} if fails_in == "on_stage" else {culprit - 3: "ValueError: shape mismatch"}
    assert scored.rejected == rejected
    assert scored.kept.tolist() == [i for i in range(ROWS) if i not in rejected]


def test_memory_that_does_not_suffice_for_staging_halves_the_micro_batches_too(
    settings: ReplicaSettings, table: pa.Table, expected: Any
) -> None:
    replica, session = on("cuda", settings)
    refused: list[int] = []

    def refuse_once(width: int) -> None:
        if width == 10 and not refused:
            refused.append(width)
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    session.on_stage = refuse_once
    scored = replica.score(table)
    assert replica.max_batch_tokens == 10
    # With room for 10 tokens: two rows of at most five.
    assert session.called == [14, 12, 10, 9, 8, 7, 6, 5, 3]
    assert (scored.kept.tolist(), scored.stats.out_of_memory) == (list(range(ROWS)), 1)
    np.testing.assert_allclose(scored.outputs[OUTPUT], expected, atol=1e-6)


def test_what_ends_the_work_leaves_nothing_staged_behind(settings: ReplicaSettings, table: pa.Table) -> None:
    replica, session = on("cuda", settings)
    begun, ended = threading.Event(), threading.Event()

    def unavailable(width: int) -> None:
        assert begun.wait(PATIENCE)
        session.on_call = lambda width: None
        raise UnavailableError("found nothing to compile")

    def slow(width: int) -> None:
        if width == WIDTHS[1]:
            begun.set()
            ended.wait(0.05)  # still at work when the call fails
            ended.set()

    session.on_stage, session.on_call = slow, unavailable
    with pytest.raises(UnavailableError):
        replica.score(table)
    assert ended.is_set()
    session.staged.clear()
    session.called.clear()
    assert replica.score(table).kept.tolist() == list(range(ROWS))
    assert session.called == session.staged == WIDTHS
