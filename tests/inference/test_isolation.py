"""Rows that kill the process, or never end: found and rejected; the others are scored, with the same answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from optinfer.errors import ConfigError, LoadError
from optinfer.inference.isolation import IsolatedReplica, Patience
from optinfer.inference.replica import Replica, ReplicaSettings
from tests.conftest import located

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
    hasty = Patience(first=3.0, least=1.0)
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
