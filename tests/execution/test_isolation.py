"""A row that kills the process is found and rejected; the others are scored, with the same answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from optinfer.execution.isolation import IsolatedReplica
from optinfer.inference.replica import Replica, ReplicaSettings
from tests.conftest import located

TEXTS = ["one", "two words", "the poison: " + "far too many words " * 30, "four", "five of them"]


def settings(folder: Path, die_at_width: int | None) -> ReplicaSettings:
    """Return a replica that is killed by a micro-batch at least so many tokens wide."""
    (folder / "calls").mkdir(exist_ok=True)
    options = {"folder": str(folder), "die_at_width": die_at_width}
    model = located()
    artifact = replace(model, load_options=options)
    return ReplicaSettings(family="text-embedding", model=model, backend="faulty", artifact=artifact)


def test_only_the_row_that_kills_the_process_is_rejected(tmp_path: Path) -> None:
    table = pa.table({"text": TEXTS})
    with IsolatedReplica(settings(tmp_path, die_at_width=64)) as isolated:
        scored = isolated.score(table)
    assert scored.kept.tolist() == [0, 1, 3, 4]
    assert list(scored.rejected) == [2]
    assert "SIGKILL" in scored.rejected[2]
    alone = Replica(settings(tmp_path, die_at_width=None)).score(table)
    np.testing.assert_allclose(scored.outputs["sentence_embedding"], alone.outputs["sentence_embedding"][scored.kept])


def test_an_error_in_the_child_is_raised_here(tmp_path: Path) -> None:
    broken = settings(tmp_path, None)
    with (
        IsolatedReplica(ReplicaSettings(**{**vars(broken), "backend": "no-such"})) as isolated,
        pytest.raises(Exception, match="no backends plugin"),
    ):
        isolated.score(pa.table({"text": ["a"]}))
