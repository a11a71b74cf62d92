"""Sketches: the same rows whoever cuts the table, merged exactly, and measurements as other libraries take them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from sklearn.metrics import pairwise_distances

from optinfer.monitoring import sketch


@given(cuts=st.lists(st.integers(1, 4999), unique=True), share=st.floats(0.001, 1.5))
def test_the_same_rows_are_chosen_however_a_file_is_cut(cuts: list[int], share: float) -> None:
    edges = [0, *sorted(cuts), 5000]
    pieces = [a + sketch.chosen("a.parquet", a, b - a, share) for a, b in itertools.pairwise(edges)]
    assert np.array_equal(np.concatenate(pieces), sketch.chosen("a.parquet", 0, 5000, share))


def test_chosen_rows_are_as_many_as_asked_for_and_lie_everywhere() -> None:
    rows = sketch.chosen("a.parquet", 0, 1_000_000, 0.002)
    assert abs(len(rows) - 2000) < 4 * np.sqrt(2000)
    counts, _ = np.histogram(rows, bins=50, range=(0, 1_000_000))
    assert chisquare(counts).pvalue > 0.001
    assert not np.array_equal(rows, sketch.chosen("b.parquet", 0, 1_000_000, 0.002))


def test_lengths_are_those_that_python_counts(sample_table: Path) -> None:
    texts = pq.read_table(sample_table)["text"]
    texts = pa.chunked_array([texts.combine_chunks(), pa.array(["Жёлтый", "", None, "日本"])])
    found = sketch.measured("input.text", texts, texts=True)
    for text, characters, size in zip(
        texts.to_pylist(),
        found["input.text.characters"].to_pylist(),
        found["input.text.bytes_a_character"].to_pylist(),
        strict=True,
    ):
        assert characters == (None if text is None else len(text))
        assert size == (len(text.encode()) / len(text) if text else None)
    assert sketch.nulls("x", texts)["x.null"].to_pylist() == [text is None for text in texts.to_pylist()]


def test_of_vectors_distances_are_kept_and_nothing_else() -> None:
    vectors = np.random.default_rng(0).standard_normal((300, 384)).astype(np.float32)
    vectors[200:] += 0.4
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 384)
    (kept,) = sketch.measured("answer.v", pa.chunked_array([column])).values()
    assert kept.type.list_size == sketch.DIRECTIONS
    projected = np.stack(kept.to_numpy(zero_copy_only=False))
    ratio = (
        pairwise_distances(projected)[np.triu_indices(300, 1)] / pairwise_distances(vectors)[np.triu_indices(300, 1)]
    )
    assert 0.95 < ratio.mean() < 1.05
    assert ratio.std() < 0.25


def test_columns_of_every_kind_are_measured_or_left_out() -> None:
    table = pa.table({
        "n": pa.array([1, None], pa.int16()),
        "d": pa.array(["a", "b"]).dictionary_encode(),
        "s": pa.array([{"x": 1.5, "y": "z"}] * 2),
        "b": pa.array([True, False]),
        "v": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
        "l": pa.array([[1], [2, 3]]),
        "t": pa.array([0, 1], pa.timestamp("us")),
    })  # fmt: skip
    found = {k: v for name in table.column_names for k, v in sketch.measured(name, table[name]).items()}
    assert set(found) == {"n", "d", "s.x", "s.y", "b", "v"}
    assert found["n"].to_pylist() == [1.0, None]
    assert found["v"].is_null().to_pylist() == [False, True]


def test_sketches_travel_as_text_and_are_put_end_to_end() -> None:
    parts = [(7, sketch.packed(np.array([1, 5]), {"a": pa.array([1.0, 2.0])}))]
    parts += [(3, sketch.packed(np.array([2]), {"a": pa.array([9.0]), "b": pa.array(["x"])}))]
    table = sketch.merged(parts)
    assert table.to_pylist() == [
        {"_row": 2, "a": 9.0, "b": "x", "_fragment": 3},
        {"_row": 1, "a": 1.0, "b": None, "_fragment": 7},
        {"_row": 5, "a": 2.0, "b": None, "_fragment": 7},
    ]
    with pytest.raises(ValueError, match="fragment 1 cannot be read"):
        sketch.merged([(1, "nonsense")])
