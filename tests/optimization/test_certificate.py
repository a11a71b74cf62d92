"""What a certificate says of neighbours and of what really ran."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from optinfer.backends import Arrays
from optinfer.config import GateConfig
from optinfer.errors import GateError
from optinfer.families._numbers import NumericFeatures, read_numbers
from optinfer.inference.answers import Scored
from optinfer.inference.invariance import invariance, outliers_first
from optinfer.inference.preparing import prepare
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.optimization.baseline import Answers, require_sound
from optinfer.optimization.certificate import Exam, mismatch
from optinfer.optimization.trial import certify_here
from optinfer.records.stats import Stats
from tests.conftest import located


@pytest.fixture
def settings() -> ReplicaSettings:
    model = located()
    return ReplicaSettings(family="text-embedding", model=model, backend="fake", artifact=model)


TEXTS = pa.table({"text": [f"package {i} " + "word " * (i % 7) for i in range(20)]})


def test_a_session_that_shares_a_scale_is_seen_to_depend_on_neighbours(settings: ReplicaSettings) -> None:
    replica = Replica(settings)
    scored = replica.score(TEXTS)
    assert max(invariance(replica, TEXTS, scored).values()) == 0
    inner = replica.session

    class Scaled:
        """Rounds every answer to a grid that all inputs of the micro-batch set."""

        def __call__(self, inputs: Arrays) -> Arrays:
            step = float(inputs["input_ids"].sum()) / 1e7
            return {name: np.round(values / step) * step for name, values in inner(inputs).items()}

    replica.session = Scaled()  # type: ignore[assignment]
    cases = invariance(replica, TEXTS, scored)
    assert cases["neighbours"] > 1e-3
    assert cases["outlier neighbours"] > 1e-3


def test_outliers_are_the_longest_rows_or_those_with_the_largest_numbers(settings: ReplicaSettings) -> None:
    rows = np.arange(20)
    longest = outliers_first(Replica(settings).family.preprocess(TEXTS), rows)
    assert longest[0] % 7 == 6
    ragged, _ = read_numbers(pa.array([[1.0, -2.0], [900.0, 0.0], [3.0, -70.0]]), "float32")
    numbers = NumericFeatures(rows=3, columns={"x": ragged}, dims={"x": (2,)})
    assert outliers_first(numbers, np.arange(3)).tolist() == [1, 2, 0]


def test_speed_is_measured_on_rows_the_model_really_sees(settings: ReplicaSettings, tmp_path: Path) -> None:
    same = pa.table({"text": ["one text"] * 20})
    scored = Replica(settings).score(same)
    one_each = replace(settings, max_batch_size=1)
    baseline = Answers(scored.outputs, scored.kept, 0.0)
    assert certify_here("fake", one_each, Exam(same, None, baseline, "cosine", tmp_path.name)).micro_batches == 20


@pytest.mark.parametrize(("large", "moved"), [(1.0, 0.5), (1e6, 0.5), (1e6, 1e-9)])
def test_beside_a_large_output_a_small_one_has_to_be_right_too(
    settings: ReplicaSettings, large: float, moved: float
) -> None:
    replica = Replica(settings)
    replica.family.outputs = ("large", "small", "label")

    class Two:
        """Of its second output the neighbours decide."""

        def __call__(self, inputs: Arrays) -> Arrays:
            rows = inputs["input_ids"][:, 1]
            small = np.sin(rows) + moved * (len(rows) > 1)
            return {"large": large * np.cos(rows), "small": small, "label": rows}

    replica.session = Two()  # type: ignore[assignment]
    outputs = Two()({"input_ids": prepare(replica.family, TEXTS).features.collate(np.arange(20))["input_ids"]})
    scored = Scored(outputs, pa.table({}), np.arange(20), {}, Stats(rows_in=20))
    answers = Answers(outputs, scored.kept, max(invariance(replica, TEXTS, scored).values()))
    if moved < 0.1:
        require_sound(answers, GateConfig())
    else:
        with pytest.raises(GateError, match="other answers when its neighbours"):
            require_sound(answers, GateConfig())


@pytest.mark.parametrize(("precision", "invariant"), [("fp32", True), ("int8", False)])
def test_a_table_of_one_row_has_no_neighbours_that_could_speak_against_fp32(
    settings: ReplicaSettings, tmp_path: Path, precision: str, invariant: bool
) -> None:
    lone = TEXTS.slice(0, 1)
    scored = Replica(settings).score(lone)
    narrow = replace(settings, artifact=replace(settings.artifact, precision=precision))
    baseline = Answers(scored.outputs, scored.kept, 0.0)
    found = certify_here("fake", narrow, Exam(lone, None, baseline, "cosine", f"{tmp_path.name}-{precision}"))
    assert found.batch_invariant is invariant


@pytest.mark.parametrize(
    ("precision", "executed", "expected"),
    [
        ("int8", {"device": "cpu", "precisions": {"int8": 40, "fp32": 8}}, ""),
        ("int8", {"device": "cpu", "precisions": {"fp32": 48}}, "asked for int8, it ran fp32 (48)"),
        ("fp32", {"device": "cpu", "precisions": {"fp32": 4, "bf16": 44}}, "asked for fp32, part of it ran bf16"),
        ("fp32", {"device": "cuda", "precisions": {"fp32": 4}}, "asked for cpu, it ran on cuda"),
        ("bf16", {"device": "cpu", "precisions": {}}, "asked for bf16, it ran nothing that multiplies"),
    ],
)
def test_what_ran_is_held_against_what_was_asked(
    settings: ReplicaSettings, precision: str, executed: dict[str, Any], expected: str
) -> None:
    asked = replace(settings, artifact=replace(settings.artifact, precision=precision))
    assert mismatch(asked, executed) == expected
