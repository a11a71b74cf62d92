"""Memory that does not suffice: smaller micro-batches from then on, and only a row that alone is too much is rejected."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optinfer.backends import Arrays, Session
from optinfer.errors import LoadError
from optinfer.families import Family
from optinfer.inference.memory import ROW_TOO_LARGE, out_of_memory
from optinfer.inference.replica import Replica, ReplicaSettings
from tests.conftest import REPO, located
from tests.inference.hooked import Hooked

OUTPUT = "sentence_embedding"


class Small(Session):
    """Has room for so many padded tokens; says so as a runtime does."""

    def __init__(self, inner: Callable[[Arrays], Arrays], room: int) -> None:
        self._inner, self._room = inner, room
        self.shapes: list[tuple[int, int]] = []
        self.freed = 0

    def __call__(self, inputs: Arrays) -> Arrays:
        rows, width = inputs["input_ids"].shape
        self.shapes.append((rows, width))
        if rows * width > self._room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 50331648 bytes")
        return self._inner(inputs)

    def executed(self) -> dict[str, Any]:
        return {}

    def free_memory(self) -> None:
        assert sys.exc_info() == (None, None, None), "the error still holds what the failed call had allocated"
        self.freed += 1


@pytest.fixture(scope="module")
def settings() -> ReplicaSettings:
    model = located()
    return ReplicaSettings(
        family="text-embedding", model=model, backend="fake", artifact=model, max_batch_tokens=160, max_batch_size=16
    )


@pytest.fixture(scope="module")
def plain(settings: ReplicaSettings) -> Replica:
    return Replica(settings)


def small(
    settings: ReplicaSettings, room: int, device: str = "cpu", family: Family | None = None
) -> tuple[Replica, Small]:
    """Return a replica whose session has `room`; the fake runs "on" any device."""
    replica = Replica(replace(settings, device=device), family=family)
    session = Small(replica.session, room)
    replica.session = session
    return replica, session


def words(*counts: int) -> pa.Table:
    """Return rows of so many words, each row another text; with the special tokens each is two longer."""
    return pa.table({"text": [" ".join([*["a"] * (n - 1), chr(ord("b") + i % 25)]) for i, n in enumerate(counts)]})


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_micro_batch_that_does_not_fit_is_halved_until_it_does(
    settings: ReplicaSettings, plain: Replica, device: str
) -> None:
    replica, session = small(settings, room=50, device=device)
    table = words(*[8] * 16)
    scored = replica.score(table)
    assert session.shapes == [(16, 10), (8, 10), *[(4, 10)] * 4]
    assert scored.kept.tolist() == list(range(16))
    np.testing.assert_allclose(scored.outputs[OUTPUT], plain.score(table).outputs[OUTPUT], atol=1e-6)
    assert (scored.stats.out_of_memory, session.freed) == (2, 2)
    assert scored.stats.micro_batches == 4


def test_what_was_learned_is_kept(settings: ReplicaSettings) -> None:
    replica, session = small(settings, room=50)
    replica.score(words(*[8] * 16))
    assert replica.max_batch_tokens == 40
    session.shapes.clear()
    again = replica.score(words(*[8] * 8, *[3] * 16))
    assert session.shapes == [(4, 10), (4, 10), (8, 5), (8, 5)]
    assert again.stats.out_of_memory == 0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_row_that_alone_does_not_fit_is_rejected(settings: ReplicaSettings, device: str) -> None:
    replica, _ = small(settings, room=50, device=device)
    scored = replica.score(words(3, 60, 5, 70, 2))
    assert scored.rejected == {1: ROW_TOO_LARGE, 3: ROW_TOO_LARGE}
    assert scored.kept.tolist() == [0, 2, 4]
    assert scored.stats.rows_quarantined == 2


def test_a_model_that_no_row_fits_is_no_reason_to_quarantine_them(settings: ReplicaSettings) -> None:
    replica, _ = small(settings, room=2)
    with pytest.raises(LoadError, match="the model answers no row here: RuntimeError: DefaultCPUAllocator"):
        replica.score(words(3, 4, 5))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@given(counts=st.lists(st.integers(1, 40), max_size=40), room=st.integers(20, 200))
def test_every_row_that_fits_is_scored_and_no_other(
    settings: ReplicaSettings, device: str, counts: list[int], room: int
) -> None:
    replica, session = small(replace(settings, dedupe=False), room, device)
    replica.score(words(1))
    scored = replica.score(words(*counts))
    assert scored.kept.tolist() == [i for i, n in enumerate(counts) if n + 2 <= room]
    assert set(scored.rejected.values()) <= {ROW_TOO_LARGE}
    assert session.freed == scored.stats.out_of_memory


def test_rows_without_lengths_are_counted(settings: ReplicaSettings) -> None:
    uniform = Hooked(ready=lambda table, own: replace(own(table), lengths=None))
    replica, session = small(settings, room=70, family=uniform)
    scored = replica.score(words(*[8] * 17))
    assert [rows for rows, _ in session.shapes] == [16, 8, 4, 4, 4, 4, 1]
    assert replica.max_batch_size == 4
    assert replica.max_batch_tokens == 160
    assert (scored.stats.padded_tokens, scored.stats.padding_fraction) == (0, 0.0)


def test_rows_tried_alone_for_another_reason_may_be_too_large(settings: ReplicaSettings) -> None:
    class OneAtATime(Small):
        def __call__(self, inputs: Arrays) -> Arrays:
            if len(inputs["input_ids"]) > 1:
                raise ValueError("shape mismatch")
            return super().__call__(inputs)

    replica, session = small(settings, room=50)
    replica.session = OneAtATime(session, room=50)
    replica.score(words(1))
    scored = replica.score(words(60, 70, 3, 4))
    assert scored.rejected == {0: ROW_TOO_LARGE, 1: ROW_TOO_LARGE}
    assert scored.kept.tolist() == [2, 3]
    assert scored.stats.out_of_memory == 2


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((1 << 40,), np.dtype("f4")),  # type: ignore[attr-defined]
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 50331648 bytes. Error code 12 (Cannot allocate memory)"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        Exception("[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Where node. bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 12582912"),
        Exception("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: bad allocation"),
        RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp:223: std::bad_alloc"),
    ],
)  # fmt: skip
def test_the_runtimes_words_for_it_are_known(error: Exception) -> None:
    assert out_of_memory(error)


@pytest.mark.parametrize("text", ["shape mismatch", "index out of range in self", "memory format is not supported", ""])
def test_other_errors_are_not_taken_for_it(text: str) -> None:
    assert not out_of_memory(RuntimeError(text))


_LIMITED = """
import json, resource, sys
import pyarrow as pa
from optinfer.inference.replica import Replica, ReplicaSettings
from tests.conftest import located

model = located()
settings = dict(family="text-embedding", model=model, backend="torch", artifact=model, dedupe=False)
replica = Replica(ReplicaSettings(**settings, max_batch_tokens=1_000_000, max_batch_size=64))
replica.score(pa.table({"text": ["warm up"]}))
table = pa.table({"text": ["word " * 300] * 64})
length = int(replica.family.preprocess(table).lengths[0])
held = int(open("/proc/self/status").read().partition("VmData:")[2].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + 150_000_000, resource.RLIM_INFINITY))
scored = replica.score(table)
resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
free = Replica(ReplicaSettings(**settings)).score(table.slice(0, 1))
difference = float(abs(scored.outputs["sentence_embedding"] - free.outputs["sentence_embedding"]).max())
print(json.dumps([len(scored.kept), scored.rejected, scored.stats.out_of_memory, length, replica.max_batch_tokens, difference]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process limit its own memory like this")
def test_torch_that_really_gets_no_memory_scores_all_rows_in_smaller_micro_batches() -> None:
    ended = subprocess.run([sys.executable, "-c", _LIMITED], capture_output=True, text=True, cwd=REPO)
    assert ended.returncode == 0, ended.stderr
    kept, rejected, refusals, length, max_batch_tokens, difference = json.loads(ended.stdout)
    assert (kept, rejected) == (64, {})
    assert refusals >= 1
    assert max_batch_tokens <= 64 * length // 2**refusals
    assert difference < 1e-5
