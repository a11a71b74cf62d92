"""Drift: measures against scipy's and scikit-learn's, quiet nights, and changes of growing size, all on real rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.metrics.pairwise import rbf_kernel

from optinfer.monitoring import drift, sketch

ROWS = 500
DRAWS = 60


@pytest.fixture(scope="module")
def rows(sample_table: Path) -> pa.Table:
    """Return the repository's rows, with a vector of each text that scikit-learn makes of its words."""
    table = pq.read_table(sample_table)
    vectors = HashingVectorizer(n_features=64).transform(table["text"].to_pylist()).toarray().astype(np.float32)
    return table.append_column("vector", pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 64))


def sketched(rows: pa.Table) -> pa.Table:
    columns = {
        **sketch.measured("input.text", rows["text"], texts=True),
        **sketch.nulls("input.text", rows["text"]),
        **sketch.measured("column.section", rows["section"]),
        **sketch.measured("answer.vector", rows["vector"]),
    }
    return sketch.merged([(0, sketch.packed(np.arange(rows.num_rows), columns))])


def moved(columns: list[drift.Column]) -> set[str]:
    return {column.name for column in columns if column.moved}


def by_name(columns: list[drift.Column]) -> dict[str, drift.Column]:
    return {column.name: column for column in columns}


def test_measures_are_those_of_scipy_and_scikit_learn(rows: pa.Table) -> None:
    before, now = sketched(rows.slice(0, 900)), sketched(rows.slice(900, 700))
    found = by_name(drift.compare(before, now))
    ours, theirs = (one["input.text.characters"].to_numpy() for one in (before, now))
    lengths = found["input.text.characters"].measures
    assert lengths[drift.KS].value == pytest.approx(stats.ks_2samp(ours, theirs).statistic)
    low, high = np.quantile(ours, [0.01, 0.99], method="lower")
    cut, cut_now = (np.minimum(np.maximum(values, low), high) for values in (ours, theirs))
    assert lengths[drift.WASSERSTEIN].value == pytest.approx(stats.wasserstein_distance(cut, cut_now) / cut.std())
    names = (
        rows.slice(0, 900)["section"]
        .to_pandas()
        .value_counts()
        .sort_index()
        .sort_values(ascending=False, kind="stable")
    )
    frequent = list(names.index[:32])
    shares = [
        rows.slice(*part)["section"].to_pandas().where(lambda s: s.isin(frequent), "others").value_counts()
        .reindex([*frequent, "others"], fill_value=0).to_numpy() for part in ((0, 900), (900, 700))
    ]  # fmt: skip
    sections = found["column.section"].measures
    assert sections[drift.JS].value == pytest.approx(jensenshannon(*shares, base=2))
    p, q = ((counts + 0.5) / (counts + 0.5).sum() for counts in shares)
    assert sections[drift.PSI].value == pytest.approx(stats.entropy(p, q) + stats.entropy(q, p))
    vectors = [np.stack(one["answer.vector"].to_numpy(zero_copy_only=False)).astype(float) for one in (before, now)]
    gamma = 1 / (2 * drift.width_of(vectors[0]) ** 2)
    exact = [rbf_kernel(a, b, gamma=gamma).mean() for a, b in (vectors, vectors[:1] * 2, vectors[1:] * 2)]
    squared = exact[1] + exact[2] - 2 * exact[0]
    assert found["answer.vector"].measures[drift.MMD].value ** 2 == pytest.approx(squared, rel=0.25)


def test_what_is_drawn_is_measured_as_what_is_real(rows: pa.Table) -> None:
    """A draw's measures are computed from counts of rows, the real ones by scipy from the rows themselves."""
    before = sketched(rows.slice(0, 400))
    random = np.random.default_rng(3)
    one, other = (random.integers(400, size=size) for size in (400, 300))
    counts = [np.bincount(rows, minlength=400)[None].astype(np.float32) for rows in (one, other)]
    for name, kind in (("input.text.characters", drift._Numbers), ("answer.vector", drift._Vectors),
                       ("column.section", drift._Categories), ("input.text.null", drift._Flags)):  # fmt: skip
        column = before[name]
        drawn = dict(kind(column, column).drawn(*counts))
        whole = kind(column, column)
        if isinstance(whole, drift._Numbers):
            a, b = (column.to_numpy()[rows] for rows in (one, other))
            assert drawn[drift.KS][0] == pytest.approx(stats.ks_2samp(a, b).statistic)
            low, high = np.quantile(column.to_numpy(), [0.01, 0.99], method="lower")
            expected = stats.wasserstein_distance(a.clip(low, high), b.clip(low, high))
            assert drawn[drift.WASSERSTEIN][0] == pytest.approx(expected / column.to_numpy().clip(low, high).std())
        elif isinstance(whole, drift._Vectors):
            vectors = drift.features(np.stack(column.to_numpy()).astype(float), whole._width)
            expected = np.linalg.norm(vectors[one].mean(axis=0) - vectors[other].mean(axis=0))
            assert drawn[drift.MMD][0] == pytest.approx(expected, rel=1e-4)
        elif isinstance(whole, drift._Categories):
            codes = [whole._counts(whole._before[rows]) for rows in (one, other)]
            assert drawn[drift.JS][0] == pytest.approx(jensenshannon(*codes, base=2), rel=1e-4)
        else:
            assert drawn[drift.SHARE][0] == 0


def test_nights_without_drift_alarm_in_at_most_5_of_100(rows: pa.Table) -> None:
    random, alarms = np.random.default_rng(15), 0
    for draw in range(DRAWS):
        order = random.permutation(rows.num_rows)[: 2 * ROWS]
        one, other = (sketched(rows.take(pa.array(part))) for part in (order[:ROWS], order[ROWS:]))
        alarms += bool(moved(drift.compare(one, other, seed=draw)))
    assert alarms <= DRAWS * 0.05


def test_values_of_which_one_in_a_thousand_is_huge_alarm_no_more_often() -> None:
    """What a reference has not seen of a tail, its own draws do not show either."""
    alarms = 0
    for draw in range(100):
        random = np.random.default_rng(draw)
        values = random.normal(size=(2, ROWS)) + 300 * (random.random((2, ROWS)) < 0.001)
        alarms += bool(moved(drift.compare(*(pa.table({"size": pa.array(one)}) for one in values), seed=draw)))
    assert alarms <= 5


Plant = Callable[[pa.Table, float, np.random.Generator], pa.Table]


def some(rows: pa.Table, share: float, random: np.random.Generator) -> np.ndarray[Any, Any]:
    return np.isin(np.arange(rows.num_rows), random.permutation(rows.num_rows)[: round(share * rows.num_rows)])


def texts(rows: pa.Table, changed: pa.ChunkedArray, where: np.ndarray[Any, Any]) -> pa.Table:
    return rows.set_column(2, "text", pc.if_else(pa.array(where), changed, rows["text"]))


def cut_off(rows: pa.Table, share: float, random: np.random.Generator) -> pa.Table:
    return texts(rows, pc.utf8_slice_codeunits(rows["text"], 0, 60), some(rows, share, random))


def nulled(rows: pa.Table, share: float, random: np.random.Generator) -> pa.Table:
    return texts(rows, pa.chunked_array([pa.nulls(rows.num_rows, pa.string())]), some(rows, share, random))


def cyrillic(rows: pa.Table, share: float, random: np.random.Generator) -> pa.Table:
    letters = str.maketrans("abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопярстувщхыз")
    changed = pa.chunked_array([[text.translate(letters) for text in rows["text"].to_pylist()]])
    return texts(rows, changed, some(rows, share, random))


def mixed(rows: pa.Table, share: float, random: np.random.Generator) -> pa.Table:
    changed = pc.if_else(pa.array(some(rows, share, random)), "python", rows["section"])
    return rows.set_column(1, "section", changed)


def rotated(rows: pa.Table, share: float, random: np.random.Generator) -> pa.Table:
    vectors = np.stack(rows["vector"].to_numpy()).astype(np.float64)
    turned = np.roll(vectors, 1, axis=1)
    where = some(rows, share, random)[:, None]
    values = np.where(where, turned, vectors).astype(np.float32)
    return rows.set_column(3, "vector", pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 64))


@pytest.mark.parametrize(
    ("plant", "what"),
    [
        (cut_off, "input.text.characters"),
        (nulled, "input.text.null"),
        (cyrillic, "input.text.bytes_a_character"),
        (mixed, "column.section"),
        (rotated, "answer.vector"),
    ],
    ids=lambda given: given if isinstance(given, str) else given.__name__,
)
def test_a_planted_change_is_found_by_name_and_a_tiny_one_is_not(rows: pa.Table, plant: Plant, what: str) -> None:
    random = np.random.default_rng(8)
    shuffled = rows.take(pa.array(random.permutation(rows.num_rows)))
    before, night = sketched(shuffled.slice(0, 900)), shuffled.slice(900, 900)
    found = by_name(drift.compare(before, sketched(plant(night, 0.4, random))))
    assert found[what].moved
    assert not moved(drift.compare(before, sketched(plant(night, 0.003, random))))


def test_rows_to_look_at_are_those_that_changed(rows: pa.Table) -> None:
    random = np.random.default_rng(8)
    before = sketched(rows.slice(0, 1000))
    night = rows.slice(1000, 1000)
    changed = cyrillic(night, 0.3, random)
    found = by_name(drift.compare(before, sketched(changed)))["input.text.bytes_a_character"]
    assert len(found.rows)
    assert all(not changed["text"][int(row)].as_py().isascii() for row in found.rows)


def test_columns_that_hold_one_value_or_none_end_nothing() -> None:
    def night(number: float, valid: int) -> pa.Table:
        return pa.table({
            "_row": pa.array(np.arange(300), pa.int32()), "_fragment": pa.array(np.zeros(300, np.int64)),
            "same": pa.array(np.full(300, number)),
            "few": pa.array([1.0] * valid + [None] * (300 - valid)),
            "none": pa.nulls(300, pa.float64()),
            "class": pa.array(["a"] * 300),
        })  # fmt: skip

    quiet = drift.compare(night(1.0, 5), night(1.0, 0))
    assert {column.name for column in quiet} == {"same", "class"}
    assert not moved(quiet)
    assert moved(drift.compare(night(1.0, 5), night(2.0, 5))) == {"same"}
