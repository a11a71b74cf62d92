"""What a probe scores, what it counts, and what is known before anything is probed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optinfer.optimization import expected
from optinfer.optimization.probing import probe_rows, speeds
from optinfer.optimization.variants import VARIANTS


@given(st.lists(st.integers(1, 512), min_size=1, max_size=600))
def test_micro_batches_hold_rows_of_like_length_from_all_over_the_sample(lengths: list[int]) -> None:
    found = probe_rows(np.array(lengths), len(lengths), 64, "cpu")
    assert 1 <= len(found) <= 4
    assert {len(batch) for batch in found} == {min(8, len(lengths))}
    ranks = {row: rank for rank, row in enumerate(np.argsort(lengths, kind="stable").tolist())}
    for batch in found:
        places = sorted(ranks[row] for row in batch)
        assert places == list(range(places[0], places[0] + len(batch))), "neighbours in the order of lengths"


def test_rows_without_lengths_are_one_micro_batch_and_a_device_gets_the_whole_sample() -> None:
    assert probe_rows(None, 500, 32, "cpu") == [list(range(32))]
    assert probe_rows(None, 5, 32, "cpu") == [list(range(5))]
    assert probe_rows(np.arange(500), 500, 32, "cuda") == [list(range(500))]


@dataclass
class Counting:
    """Scores nothing, and takes CPU time for it."""

    calls: list[int] = field(default_factory=list)

    def score(self, table: pa.Table) -> Any:
        self.calls.append(table.num_rows)
        return sum(range(20_000))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_passes_are_counted_after_one_that_warms_up(device: str) -> None:
    engine = Counting()
    batches = [pa.table({"x": range(8)}), pa.table({"x": range(4)})]
    found = speeds(engine, batches, device)  # type: ignore[arg-type]
    assert 3 <= len(found) <= 10
    assert engine.calls == [8, 4] * (len(found) + 1)
    assert all(speed > 0 for speed in found)


def test_a_draft_changes_what_takes_long_and_nothing_else() -> None:
    for variant in VARIANTS.values():
        assert (variant.draft is not None) == variant.calibrates or variant.device == "cuda" or variant.exploratory
    draft = VARIANTS["onnx-int8-qdq"].draft
    assert draft is not None
    assert [step.options for step in draft.steps] == [{}, {"rows": 8}]
    assert (draft.name, draft.backend) == ("onnx-int8-qdq", "onnxruntime")


@pytest.mark.parametrize("table", [expected._AVX2, expected._VNNI], ids=["AVX2", "VNNI"])
def test_what_ships_is_about_variants_that_ship(table: dict[str, float]) -> None:
    assert set(table) <= set(VARIANTS)


def test_what_was_measured_here_takes_the_place_of_what_ships() -> None:
    before = expected.expected("tensor", "cpu")
    expected.remember("tensor", "cpu", {"onnx-fp32": 7.5})
    expected.remember("tensor", "cpu", {"own": 2.0})
    after = expected.expected("tensor", "cpu")
    assert (after["onnx-fp32"], after["own"]) == (7.5, 2.0)
    assert {n: r for n, r in after.items() if n not in ("onnx-fp32", "own")} == {
        n: r for n, r in before.items() if n != "onnx-fp32"
    }
    assert "own" not in expected.expected("image-classification", "cpu"), "another family's rows are other rows"


def test_of_a_gpu_nothing_is_known_before_it_was_measured() -> None:
    assert expected.expected("text-embedding", "cuda") == {}
