"""Identical rows are scored once, and nobody can tell from the answers."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optinfer.backends import Arrays
from optinfer.families import Family, Features
from optinfer.inference.dedupe import repeats
from optinfer.inference.replica import Replica, ReplicaSettings, Scored
from tests.conftest import located
from tests.inference.hooked import Hooked, Ready

# Few different ones, so that most tables repeat some; "nan" is what the session below has no finite answer for.
TEXTS = ("a game", "", "a library for reading tables", "break", "nan", "A game", "a game ", None)
OUTPUT = "sentence_embedding"


def spoil(inputs: Arrays, outputs: Arrays, broken: int, endless: int) -> Arrays:
    second = inputs["input_ids"][:, 1]
    if (second == broken).any():
        raise ValueError("shape mismatch")
    outputs[OUTPUT][second == endless] = np.nan
    return outputs


class Spoiled:
    """A session that breaks on one word and has no finite answer for another."""

    def __init__(self, inner: Callable[[Arrays], Arrays], broken: int, endless: int) -> None:
        self._inner, self._words, self.rows = inner, (broken, endless), 0

    def __call__(self, inputs: Arrays) -> Arrays:
        self.rows += len(inputs["input_ids"])
        return spoil(inputs, self._inner(inputs), *self._words)


def make(dedupe: bool, family: Family | None = None) -> Replica:
    model = located()
    settings = ReplicaSettings(family="text-embedding", model=model, backend="fake", artifact=model, dedupe=dedupe)
    replica = Replica(replace(settings, max_batch_tokens=64, max_batch_size=4), family=family)
    ids = [
        int(replica.family.preprocess(pa.table({"text": [w]})).collate(np.array([0]))["input_ids"][0, 1])
        for w in ("break", "nan")
    ]
    replica.score(pa.table({"text": ["a"]}))  # a replica that has answered once knows that it is not to blame
    replica.session = Spoiled(replica.session, *ids)  # type: ignore[assignment]
    return replica


@pytest.fixture(scope="module")
def once() -> Replica:
    return make(dedupe=True)


@pytest.fixture(scope="module")
def every() -> Replica:
    return make(dedupe=False)


def seen(replica: Replica, table: pa.Table) -> tuple[Scored, int]:
    """Score a table; return the answers and how many rows the session was given."""
    session: Any = replica.session
    before = session.rows
    return replica.score(table), session.rows - before


def require_the_same(scored: Scored, expected: Scored) -> None:
    assert scored.kept.tolist() == expected.kept.tolist()
    assert scored.rejected == expected.rejected
    assert scored.outputs.keys() == expected.outputs.keys()
    for name, values in expected.outputs.items():
        np.testing.assert_allclose(scored.outputs[name], values, atol=1e-6)
    ours, theirs = scored.stats, expected.stats
    assert (ours.rows_in, ours.rows_out, ours.rows_quarantined) == (
        theirs.rows_in,
        theirs.rows_out,
        theirs.rows_quarantined,
    )


@given(st.lists(st.sampled_from(TEXTS), max_size=30), st.booleans())
def test_the_answers_are_those_of_scoring_every_row(
    once: Replica, every: Replica, rows: list[str | None], encoded: bool
) -> None:
    column = pa.array(rows, pa.string())
    table = pa.table({"text": column.dictionary_encode() if encoded else column})
    scored, expected = once.score(table), every.score(table)
    require_the_same(scored, expected)
    assert scored.stats.rows_deduplicated == len(rows) - len(set(rows))
    assert expected.stats.rows_deduplicated == 0


def test_the_model_sees_a_repeated_row_once(once: Replica) -> None:
    scored, rows = seen(once, pa.table({"text": ["one", "two", "one", "one"]}))
    assert rows == 2
    assert scored.stats.tokens == 6, "two words, each with the two special tokens"
    assert scored.stats.rows_deduplicated == 2
    for repeated in (2, 3):
        np.testing.assert_array_equal(scored.outputs[OUTPUT][repeated], scored.outputs[OUTPUT][0])


def test_every_duplicate_of_a_rejected_row_has_its_reason(once: Replica) -> None:
    scored = once.score(pa.table({"text": [None, "break", "a", None, "nan", "break", "nan"]}))
    assert scored.kept.tolist() == [2]
    assert scored.rejected == {
        0: "text is null",
        1: "ValueError: shape mismatch",
        3: "text is null",
        4: "the model's output is not finite",
        5: "ValueError: shape mismatch",
        6: "the model's output is not finite",
    }


def test_what_repeats_is_preprocessed_once() -> None:
    given: list[int] = []

    def counted(table: pa.Table, own: Ready) -> Features:
        given.append(table.num_rows)
        return own(table)

    replica = make(dedupe=True, family=Hooked(ready=counted))
    given.clear()
    replica.score(pa.table({"text": ["one", "one", "two"]}))
    assert given == [2]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", "b", "a", None, None], pa.string()),
        pa.array(["a", "b", "a", None, None], pa.large_string()),
        pa.array([b"a", b"b", b"a", None, None], pa.binary()),
        pa.array([b"a", b"b", b"a", None, None], pa.large_binary()),
        pa.array([b"aa", b"bb", b"aa", None, None], pa.binary(2)),
        pa.array([1, 0, 1, None, None], pa.int8()),
        pa.array([2**63, 0, 2**63, None, None], pa.uint64()),
        pa.array([True, False, True, None, None]),
        pa.array([dt.date(2024, 1, 1), dt.date(1970, 1, 1), dt.date(2024, 1, 1), None, None]),
        pa.array([dt.time(1), dt.time(0), dt.time(1), None, None]),
        pa.array([1, 0, 1, None, None], pa.timestamp("us", "UTC")),
        pa.array([1, 0, 1, None, None], pa.duration("s")),
        pa.array([Decimal("1.0"), Decimal("0"), Decimal("1"), None, None]),
        pa.array(["a", "b", "a", None, None]).dictionary_encode(),
        pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, None, 3]), ["a", "b", "a", None]),
    ],
    ids=lambda column: str(column.type),
)  # fmt: skip
def test_equal_values_are_found_and_null_is_one_of_them(column: pa.Array) -> None:
    found = repeats(pa.table({"x": column}))
    assert found is not None
    assert found.first.tolist() == [0, 1, 3]
    assert found.kind.tolist() == [0, 1, 0, 2, 2]


@pytest.mark.parametrize(
    "column",
    [pa.array([0.0, -0.0]), pa.array([[1], [1]]), pa.array([{"a": 1}, {"a": 1}]), pa.array([1.0, 1.0]).dictionary_encode()],
    ids=lambda column: str(column.type),
)  # fmt: skip
def test_what_cannot_be_compared_exactly_is_left_alone(column: pa.Array) -> None:
    assert repeats(pa.table({"x": column})) is None
    assert repeats(pa.table({"same": [1, 1], "x": column})) is None


def test_a_value_is_the_same_in_every_chunk() -> None:
    dictionaries = [pa.array(["b", "a"]).dictionary_encode(), pa.array(["a", "c", "b"]).dictionary_encode()]
    for chunks in ([["b", "a"], ["a", "c", "b"]], dictionaries):
        found = repeats(pa.table({"x": pa.chunked_array(chunks)}))
        assert found is not None
        assert found.kind.tolist() == [0, 1, 1, 2, 0]


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["a", "b", None])), max_size=40))
def test_rows_repeat_where_all_of_their_columns_do(rows: list[tuple[int, str | None]]) -> None:
    table = pa.table(
        {"n": pa.array([n for n, _ in rows], pa.int64()), "s": pa.array([s for _, s in rows], pa.string())}
    )
    found = repeats(table)
    if len(set(rows)) == len(rows):
        assert found is None
        return
    assert found is not None
    kinds = list(dict.fromkeys(rows))
    assert [tuple(row.values()) for row in found.without(table).to_pylist()] == kinds
    assert [kinds[kind] for kind in found.kind] == rows
    assert found.first.tolist() == [rows.index(kind) for kind in kinds]


D = decimal.Decimal
BERLIN = pa.timestamp("ns", "Europe/Berlin")
TYPES: dict[str, tuple[pa.Array, list[int] | None]] = {
    "decimals": (pa.array([D("1.00"), D("1.01"), D("1.00")], pa.decimal128(20, 2)), [0, 1, 0]),
    "small decimals": (pa.array([D("1.00"), D("1.01"), D("1.00")], pa.decimal32(5, 2)), None),
    "wide decimals": (pa.array([D("1.00"), D("1.01"), D("1.00")], pa.decimal256(50, 2)), [0, 1, 0]),
    "times with a zone": (pa.array([1, 2, 1], pa.int64()).view(BERLIN), [0, 1, 0]),
    "dates that are no whole days": (pa.array([0, 1, 0], pa.int64()).view(pa.date64()), [0, 1, 0]),
    "large texts": (pa.array(["a", "b", "a"], pa.large_string()), [0, 1, 0]),
    "texts that differ in form only": (pa.array(["é", "e\u0301", "é"]), [0, 1, 0]),
    "dictionaries": (pa.array(["a", "b", "a"], pa.dictionary(pa.int8(), pa.string())), [0, 1, 0]),
    "zero and minus zero": (pa.array([0.0, -0.0, 0.0]), None),
    "not a number": (pa.array([float("nan")] * 3), None),
    "dictionaries of floats": (pa.array([0.0, -0.0, 0.0], pa.dictionary(pa.int8(), pa.float64())), None),
    "views": (pa.array(["a", "b", "a"], pa.string_view()), None),
    "extensions": (pa.ExtensionArray.from_storage(pa.json_(), pa.array(["1", "1.0", "1"])), None),
    "lists": (pa.array([[1], [2], [1]]), None),
    "nothing but nulls": (pa.nulls(3), None),
}


@pytest.mark.parametrize("name", TYPES)
def test_only_what_is_certainly_equal_is_scored_once(name: str) -> None:
    array, kinds = TYPES[name]
    found = repeats(pa.table({"x": array}))
    assert (None if found is None else found.kind.tolist()) == kinds
