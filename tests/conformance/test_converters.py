"""Rows through a replica, as a job scores them, against the library that trained the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optinfer.families import as_roles
from optinfer.inference.replica import Replica, ReplicaSettings
from tests.conformance.converters import ROWS, models
from tests.conftest import located

MODELS = models()


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_of_the_library_that_trained_it(name: str, tmp_path: Path) -> None:
    made = MODELS[name]()
    model = located(made.write(tmp_path), "tensor")
    settings = ReplicaSettings(
        family="tensor", model=model, backend="onnxruntime", artifact=model, threads=1, max_batch_size=48
    )
    replica = Replica(settings)
    replica.family.check(made.table.schema, made.columns)
    rows = as_roles(made.table, made.columns)
    scored = replica.score(rows)
    assert scored.rejected == {}
    table = scored.added
    assert table.schema.names == [*made.expected]
    assert table.num_rows == ROWS
    for column, expected in made.expected.items():
        require_the_same(table[column].to_pylist(), expected)
    reference = replica.family.reference(rows, table)
    assert (reference.library, reference.rows, reference.agrees) == ("onnxruntime", ROWS, True), reference.note
    assert reference.largest_difference is not None
    assert reference.largest_difference < 1e-5


def test_doubles_keep_their_digits(tmp_path: Path) -> None:
    made = MODELS["scikit-learn LinearRegression in doubles"]()
    model = located(made.write(tmp_path), "tensor")
    replica = Replica(ReplicaSettings(family="tensor", model=model, backend="onnxruntime", artifact=model, threads=1))
    ours = np.array(replica.score(as_roles(made.table, made.columns)).added["variable"].to_pylist())
    np.testing.assert_allclose(ours, made.expected["variable"], rtol=1e-12, atol=1e-12)
    assert ours.tolist() != ours.astype(np.float32).tolist()


def require_the_same(ours: list[Any], theirs: list[Any]) -> None:
    """Labels are equal, in value and type; numbers to 1e-5 of their size."""
    if isinstance(np.ravel(theirs)[0], np.floating):
        np.testing.assert_allclose(np.array(ours), np.array(theirs), atol=1e-5, rtol=1e-5)
    else:
        assert ours == theirs
        assert {type(label) for label in np.ravel(ours).tolist()} == {
            type(label) for label in np.ravel(theirs).tolist()
        }
