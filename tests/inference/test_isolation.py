"""Rows that kill the process, or never end: found and rejected; the others are scored, with the same answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from optinfer.errors import ConfigError, LoadError, QuarantineError
from optinfer.inference.at_work import TimeLimits
from optinfer.inference.isolation import IsolatedReplica, Patience
from optinfer.inference.replica import Replica, ReplicaSettings
from tests.conftest import located
from tests.plugins.optinfer_custom import Poison

TEXTS = ["one", "two words", "the poison: " + "far too many words " * 30, "four", "five of them"]


def settings(folder: Path, **faults: Any) -> ReplicaSettings:
    """Return a replica with faults (see plugins/optinfer_faults.py)."""
    (folder / "calls").mkdir(exist_ok=True)
    model = located()
    artifact = replace(model, load_options={"folder": str(folder), **faults})
    return ReplicaSettings(family="text-embedding", model=model, backend="faulty", artifact=artifact)


def test_only_the_row_that_kills_the_process_is_rejected(tmp_path: Path) -> None:
    table = pa.table({"text": TEXTS})
    with IsolatedReplica(settings(tmp_path, die_at_width=64)) as isolated:
        scored = isolated.score(table)
    assert scored.kept.tolist() == [0, 1, 3, 4]
    assert list(scored.rejected) == [2]
    assert "SIGKILL" in scored.rejected[2]
    alone = Replica(settings(tmp_path)).score(table)
    np.testing.assert_allclose(scored.outputs["sentence_embedding"], alone.outputs["sentence_embedding"][scored.kept])
    assert scored.added.equals(alone.added.take(pa.array(scored.kept)))


def test_a_row_that_never_ends_is_found_by_its_silence(tmp_path: Path) -> None:
    hasty = Patience(least=1.0, times=0.0)
    with IsolatedReplica(settings(tmp_path, hang_at_width=64), hasty) as isolated:
        scored = isolated.score(pa.table({"text": TEXTS}))
    assert scored.kept.tolist() == [0, 1, 3, 4]
    assert scored.rejected == {2: "the row ends the replica's process: no answer within 1 s"}


def test_a_row_that_raises_beside_one_that_kills_is_a_bad_row_and_no_broken_variant(tmp_path: Path) -> None:
    """Halved down, a fresh process meets nothing but bad rows: the canary tells that it can answer others."""
    raising = "word " * 20  # 22 tokens
    table = pa.table({"text": [raising, TEXTS[2], raising + "."]})
    faulty = settings(tmp_path, die_at_width=64, raise_at_width=22)
    with IsolatedReplica(replace(faulty, canary=pa.table({"text": ["known"]}))) as isolated:
        scored = isolated.score(table)
    assert scored.kept.tolist() == [2]
    assert "SIGKILL" in scored.rejected[1]
    assert scored.rejected[0] == "ValueError: no row may be 22 wide"
    with IsolatedReplica(replace(faulty, canary=pa.table({"text": ["known"]}))) as isolated:
        only_bad = isolated.score(pa.table({"text": [raising, raising.upper(), TEXTS[2]]}))
    assert sorted(only_bad.rejected) == [0, 1, 2]


def test_a_process_that_every_row_kills_is_no_reason_to_reject_them(tmp_path: Path) -> None:
    with (
        IsolatedReplica(settings(tmp_path, die_at_width=1)) as isolated,
        pytest.raises(LoadError, match="ends with every row that was tried: SIGKILL"),
    ):
        isolated.score(pa.table({"text": [f"text {i}" for i in range(40)]}))


def test_an_error_in_the_child_is_raised_here(tmp_path: Path) -> None:
    broken = replace(settings(tmp_path), backend="no-such")
    with IsolatedReplica(broken) as isolated, pytest.raises(ConfigError, match="no backends plugin"):
        isolated.score(pa.table({"text": ["a"]}))


def poisonous(folder: Path, **changes: Any) -> ReplicaSettings:
    """Return a replica whose rows do what their lengths say (see plugins/optinfer_custom.py)."""
    (folder / "config.json").write_text("{}")
    model = located(folder, "custom", **{"class": "optinfer_custom:Poison", "arguments": {"loads": "unused"}})
    spec = {"class": "optinfer_custom:Poison", "arguments": {"loads": str(folder / "loads")}}
    settings = ReplicaSettings(family="custom", family_settings=spec, model=model, backend="torch", artifact=model)
    return replace(settings, dedupe=False, limits=TimeLimits(micro_batch=2.0), **changes)


def rows_of(count: int, poison: dict[int, int]) -> pa.Table:
    return pa.table({"text": ["x" * poison.get(row, 10 + row) for row in range(count)]})


def test_each_way_to_end_a_process_is_found_side_by_side_in_one_micro_batch(tmp_path: Path) -> None:
    kinds = [Poison.SEGFAULT, Poison.HANG, Poison.EXIT, Poison.LEAVE, Poison.KILL, Poison.RAISE]
    poison = dict(enumerate(kinds, 30))
    with IsolatedReplica(poisonous(tmp_path)) as isolated:
        scored = isolated.score(rows_of(64, poison))
    assert scored.kept.tolist() == [row for row in range(64) if row not in poison]
    whose = "the row ends the replica's process: "
    assert {row: why.removeprefix(whose).partition("\n")[0] for row, why in scored.rejected.items()} == {
        30: "SIGSEGV",
        31: "no answer within 2 s",
        32: "exit code 3 SystemExit: 3",
        33: "exit code 4",
        34: "SIGKILL",
        35: "ValueError: no such text",
    }
    assert isolated.loads == len((tmp_path / "loads").read_bytes())
    assert isolated.loads == 2 + 5, "the whole, then one after each row that ends it"


def test_one_row_costs_two_more_loads_however_many_are_around_it(tmp_path: Path) -> None:
    with IsolatedReplica(poisonous(tmp_path)) as isolated:
        scored = isolated.score(rows_of(512, {400: Poison.LEAVE}))
    assert list(scored.rejected) == [400]
    assert isolated.loads == 3


def test_rows_that_each_end_their_own_micro_batch_are_no_broken_process(tmp_path: Path) -> None:
    poison = dict.fromkeys((2, 4, 6), Poison.LEAVE)
    with IsolatedReplica(poisonous(tmp_path, max_batch_size=1), Patience(deaths=2)) as isolated:
        scored = isolated.score(rows_of(7, poison))
    assert sorted(scored.rejected) == [2, 4, 6]
    assert isolated.loads == 2 * len(poison)


def test_a_row_that_hangs_while_rows_are_made_ready_is_found(tmp_path: Path) -> None:
    with IsolatedReplica(poisonous(tmp_path)) as isolated:
        scored = isolated.score(rows_of(16, {5: Poison.HANG_BEFORE}))
    assert scored.rejected == {5: "the row ends the replica's process: no answer within 2 s"}


def test_more_rows_that_end_it_than_the_job_may_leave_out_end_the_search(tmp_path: Path) -> None:
    poison = dict.fromkeys(range(24, 32), Poison.LEAVE)
    with (
        IsolatedReplica(poisonous(tmp_path), most_rejected=2) as isolated,
        pytest.raises(QuarantineError, match=r"3 rows of one fragment end .* leaves room for 2 more .*exit code 4"),
    ):
        isolated.score(rows_of(32, poison))
    assert isolated.loads == 1 + 3


def test_a_process_that_ends_before_it_has_loaded_is_no_rows_fault(tmp_path: Path) -> None:
    model = poisonous(tmp_path)
    spec = {"class": "optinfer_custom:EndsAtLoad", "arguments": {}}
    with (
        IsolatedReplica(replace(model, family_settings=spec)) as isolated,
        pytest.raises(LoadError, match="ends before it has seen a row: exit code 5"),
    ):
        isolated.score(rows_of(4, {}))
    assert isolated.loads == 3
