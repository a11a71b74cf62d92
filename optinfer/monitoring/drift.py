"""Did the rows or the answers move, and how far? Two sketches in, what moved out. Pure.

Every measure has its own alarm threshold, by what the reference does to itself: two nights are drawn from the
reference's rows (with replacement, whole rows, so that what goes together stays together), as many as were kept of
each, and measured as the real ones are. The threshold is where the largest of all standardised measures of a draw lies
in `LEVEL` of the draws (Westfall and Young 1993): it holds for all measures together, however they hang together. On
top, each measure has a least size below which nobody would act. p-values play no part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats
from scipy.spatial.distance import jensenshannon

from optinfer.monitoring.sketch import FEWEST_ROWS as FEWEST_ROWS
from optinfer.monitoring.sketch import FRAGMENT, ROW

Array = np.ndarray[Any, Any]
KS, WASSERSTEIN, PSI, JS, SHARE, MMD = "ks", "wasserstein", "psi", "jensen_shannon", "share", "mmd"
# Nights without drift that are quiet, over all measures together.
LEVEL = 0.99
# A psi of 0.1 is called small by those who use it (Siddiqi 2006); wasserstein is in standard deviations.
LEAST = {KS: 0.05, WASSERSTEIN: 0.1, PSI: 0.05, JS: 0.1, SHARE: 0.005, MMD: 0.05}
_FEWEST_VALUES = 50
_DRAWS = 400
_BINS = 10
# Between them lie the values that wasserstein compares: of what is rarer a draw of the reference knows too little.
_TAILS = (0.01, 0.99)
_CATEGORIES = 32
_FREQUENCIES = 128
_PAIRS = 500
_SHOWN_ROWS = 5


@dataclass(frozen=True)
class Measured:
    """A measure of a column: what it is, above what it would alarm, and the least that anybody would act on."""

    value: float
    threshold: float
    least: float

    @property
    def moved(self) -> bool:
        return self.value > self.threshold and self.value >= self.least


@dataclass(frozen=True)
class Column:
    """A column of the sketches.

    Attributes:
        measures: by name.
        before, now: what it was like and is, in words.
        rows: (n,) rows of tonight's sketch to look at: those of which there are more than there were.
    """

    name: str
    measures: Mapping[str, Measured]
    before: str
    now: str
    rows: Array

    @property
    def moved(self) -> tuple[str, ...]:
        """Name the measures that alarm, furthest beyond their thresholds first."""
        found = [name for name, one in self.measures.items() if one.moved]
        return tuple(sorted(found, key=lambda name: -self.measures[name].value / max(self.measures[name].least, 1e-12)))


def compare(reference: pa.Table, tonight: pa.Table, seed: int = 0) -> list[Column]:
    """Hold a night's sketch against a reference's; columns that only one of them has are left out.

    Args:
        reference, tonight: sketches as `merged` gives them, of `FEWEST_ROWS` rows at least.
        seed: of the draws.
    """
    kinds = {name: _kind(reference.schema.field(name).type) for name in reference.column_names}
    shared = [name for name in kinds if name not in (FRAGMENT, ROW) and name in tonight.column_names]
    pairs = {name: kinds[name](reference.column(name), tonight.column(name)) for name in shared}
    pairs = {name: pair for name, pair in pairs.items() if pair.usable}
    if not pairs:
        return []
    one, other = _draws(reference.num_rows, tonight.num_rows, np.random.default_rng(seed))
    drawn = {(name, measure): values for name, pair in pairs.items() for measure, values in pair.drawn(one, other)}
    centre = {key: float(values.mean()) for key, values in drawn.items()}
    spread = {key: float(values.std()) for key, values in drawn.items()}
    scaled = [(values - centre[key]) / spread[key] for key, values in drawn.items() if spread[key] > 0]
    reach = float(np.quantile(np.max(scaled, axis=0), LEVEL, method="higher")) if scaled else 0.0
    columns = []
    for name, pair in pairs.items():
        limits = {m: centre[name, m] + reach * spread[name, m] for column, m in drawn if column == name}
        measures = {m: Measured(value, limits[m], LEAST[m]) for m, value in pair.measured().items()}
        columns.append(Column(name, measures, *pair.said(), pair.more()[:_SHOWN_ROWS]))
    return columns


def _draws(rows: int, others: int, random: np.random.Generator) -> tuple[Array, Array]:
    """Return (draws, rows) how often each row of the reference is in each of two nights drawn from it."""

    def drawn(size: int) -> Array:
        picked = random.integers(rows, size=(_DRAWS, size)) + rows * np.arange(_DRAWS)[:, None]
        return np.bincount(picked.ravel(), minlength=_DRAWS * rows).reshape(_DRAWS, rows).astype(np.float32)

    return drawn(rows), drawn(others)


def psi(expected: Array, actual: Array) -> Array:
    """Return the population stability index of counts; half a row more in each bin keeps empty ones finite.

    Args:
        expected, actual: (..., bins) counts.
    """
    p, q = (
        (counts + 0.5) / (counts.sum(axis=-1, keepdims=True) + 0.5 * counts.shape[-1]) for counts in (expected, actual)
    )
    return np.asarray(((q - p) * np.log(q / p)).sum(axis=-1))


def js(expected: Array, actual: Array) -> Array:
    """Return the Jensen-Shannon distance of (..., bins) counts, in [0, 1]."""
    return np.nan_to_num(np.asarray(jensenshannon(expected, actual, base=2.0, axis=-1)))


class _Numbers:
    """A column of numbers in two nights; NaN counts as missing."""

    def __init__(self, reference: pa.ChunkedArray, tonight: pa.ChunkedArray) -> None:
        self._rows, before = _present(reference)
        self._rows_now, self._now = _present(tonight)
        order = np.argsort(before, kind="stable")
        self._order, self._before = self._rows[order], before[order]
        self.usable = min(len(before), len(self._now)) >= _FEWEST_VALUES
        if self.usable:
            self._ends = np.quantile(before, _TAILS, method="lower")
            cut = np.clip(before, *self._ends)
            self._scale = float(cut.std()) or max(abs(float(cut.mean())), 1.0)
            edges = np.unique(np.quantile(before, np.linspace(0, 1, _BINS + 1)[1:-1], method="lower"))
            self._edges = edges[edges < before.max()]  # after the last one there is a bin, too

    def measured(self) -> dict[str, float]:
        before, now = (self._counts(values) for values in (self._before, self._now))
        return {
            KS: float(stats.ks_2samp(self._before, self._now, method="asymp").statistic),
            WASSERSTEIN: float(stats.wasserstein_distance(*self._cut())) / self._scale,
            PSI: float(psi(before, now)),
            JS: float(js(before, now)),
        }

    def drawn(self, one: Array, other: Array) -> list[tuple[str, Array]]:
        last = np.flatnonzero(np.append(np.diff(self._before) > 0, True))  # of each value
        first, second = (self._cumulated(weights, last) for weights in (one, other))
        apart = np.abs(first / first[:, -1:] - second / second[:, -1:])
        values = self._before[last]
        ends = np.append(np.searchsorted(values, self._edges, side="right") - 1, len(values) - 1)
        binned = [np.diff(sums[:, ends], prepend=0) for sums in (first, second)]
        return [
            (KS, apart.max(axis=1)),
            (WASSERSTEIN, apart[:, :-1] @ np.diff(np.clip(values, *self._ends)) / self._scale),
            (PSI, psi(*binned)),
            (JS, js(*binned)),
        ]

    def _cut(self) -> tuple[Array, Array]:
        """Return all values, the reference's tails cut off: what few rows decide alone tells nothing."""
        return np.clip(self._before, *self._ends), np.clip(self._now, *self._ends)

    def _cumulated(self, weights: Array, last: Array) -> Array:
        return np.cumsum(weights[:, self._order], axis=1, dtype=np.float64)[:, last]

    def _counts(self, values: Array) -> Array:
        """Count values by bins that end at an edge, which belongs to them."""
        return np.bincount(self._bin(values), minlength=len(self._edges) + 1)

    def _bin(self, values: Array) -> Array:
        return np.searchsorted(self._edges, values, side="left")

    def said(self) -> tuple[str, str]:
        return _quantiles(self._before), _quantiles(self._now)

    def more(self) -> Array:
        """Return the rows of the bin that gained most, furthest from the reference's middle first."""
        before, now = self._counts(self._before), self._counts(self._now)
        gained = int(np.argmax(now / now.sum() - before / before.sum()))
        inside = np.flatnonzero(self._bin(self._now) == gained)
        far = np.argsort(-np.abs(self._now[inside] - np.median(self._before)), kind="stable")
        return self._rows_now[inside[far]]


class _Flags:
    """A column of yes and no in two nights."""

    def __init__(self, reference: pa.ChunkedArray, tonight: pa.ChunkedArray) -> None:
        self._rows, before = _present(reference)
        self._rows_now, now = _present(tonight)
        self._before, self._now = before.astype(bool), now.astype(bool)
        self.usable = min(len(before), len(now)) >= _FEWEST_VALUES

    def measured(self) -> dict[str, float]:
        return {SHARE: float(abs(self._now.mean() - self._before.mean()))}

    def drawn(self, one: Array, other: Array) -> list[tuple[str, Array]]:
        first, second = (
            weights[:, self._rows] @ self._before.astype(np.float32) / np.maximum(weights[:, self._rows].sum(axis=1), 1)
            for weights in (one, other)
        )
        return [(SHARE, np.abs(first - second))]

    def said(self) -> tuple[str, str]:
        return f"{self._before.mean():.2%}", f"{self._now.mean():.2%}"

    def more(self) -> Array:
        return self._rows_now[self._now == (self._now.mean() >= self._before.mean())]


class _Categories:
    """A column of classes in two nights: the reference's most frequent ones, and all others together."""

    def __init__(self, reference: pa.ChunkedArray, tonight: pa.ChunkedArray) -> None:
        self._rows, before = _present(reference)
        self._rows_now, now = _present(tonight)
        self.usable = min(len(before), len(now)) >= _FEWEST_VALUES
        names, counts = np.unique(before.astype(str), return_counts=True)
        self._names = names[np.argsort(-counts, kind="stable")][:_CATEGORIES]
        self._before, self._now = self._codes(before), self._codes(now)

    def _codes(self, values: Array) -> Array:
        numbers = {name: code for code, name in enumerate(self._names.tolist())}
        return np.array([numbers.get(str(value), len(numbers)) for value in values], dtype=np.int64)

    def _counts(self, codes: Array) -> Array:
        return np.bincount(codes, minlength=len(self._names) + 1)

    def measured(self) -> dict[str, float]:
        before, now = self._counts(self._before), self._counts(self._now)
        return {PSI: float(psi(before, now)), JS: float(js(before, now))}

    def drawn(self, one: Array, other: Array) -> list[tuple[str, Array]]:
        hot = np.eye(len(self._names) + 1, dtype=np.float32)[self._before]
        first, second = (weights[:, self._rows] @ hot for weights in (one, other))
        return [(PSI, psi(first, second)), (JS, js(first, second))]

    def _gain(self) -> Array:
        before, now = self._counts(self._before), self._counts(self._now)
        return np.asarray(now / now.sum() - before / before.sum())

    def said(self) -> tuple[str, str]:
        """Say how often those are that gained and lost most."""
        gain = self._gain()
        most = sorted({int(np.argmax(gain)), int(np.argmin(gain))})
        names = [*self._names.tolist(), "others"]
        before, now = (
            ", ".join(f"{names[code]} {np.mean(codes == code):.1%}" for code in most)
            for codes in (self._before, self._now)
        )
        return before, now

    def more(self) -> Array:
        return self._rows_now[self._now == int(np.argmax(self._gain()))]


class _Vectors:
    """A column of vectors in two nights, by the distance of their means in a space of random features.

    That is the maximum mean discrepancy (Gretton et al. 2012) under a Gaussian kernel, whose width is the reference's
    median distance, by random Fourier features (Rahimi and Recht 2007).
    """

    def __init__(self, reference: pa.ChunkedArray, tonight: pa.ChunkedArray) -> None:
        self._rows, before = _present_vectors(reference)
        self._rows_now, now = _present_vectors(tonight)
        self.usable = min(len(before), len(now)) >= _FEWEST_VALUES
        if self.usable:
            self._width = width_of(before)
            self._before, self._now = (features(vectors, self._width) for vectors in (before, now))
            self._norms = (np.linalg.norm(before, axis=1).mean(), np.linalg.norm(now, axis=1).mean())

    def measured(self) -> dict[str, float]:
        return {MMD: float(np.linalg.norm(self._now.mean(axis=0) - self._before.mean(axis=0)))}

    def drawn(self, one: Array, other: Array) -> list[tuple[str, Array]]:
        given = self._before.astype(np.float32)
        first, second = (
            weights[:, self._rows] @ given / weights[:, self._rows].sum(axis=1, keepdims=True)
            for weights in (one, other)
        )
        return [(MMD, np.linalg.norm(first - second, axis=1))]

    def said(self) -> tuple[str, str]:
        before, now = (f"mean length {norm:.3g}" for norm in self._norms)
        return before, now

    def more(self) -> Array:
        """Return the rows where tonight's density exceeds the reference's most (the witness function), first."""
        witness = self._now @ (self._now.mean(axis=0) - self._before.mean(axis=0))
        return self._rows_now[np.argsort(-witness, kind="stable")]


_Pair = _Numbers | _Flags | _Categories | _Vectors


def width_of(vectors: Array) -> float:
    """Return the median distance of (rows, width) vectors, of some that lie far from each other in the table."""
    some = vectors[:: max(1, len(vectors) // _PAIRS)]
    apart = np.linalg.norm(some - np.roll(some, len(some) // 2, axis=0), axis=1)
    return float(np.median(apart)) or 1.0


def features(vectors: Array, width: float) -> Array:
    """Return (rows, 2 * frequencies) random features whose products are the Gaussian kernel exp(-d^2 / (2 width^2))."""
    waves = vectors @ (np.random.RandomState(0).standard_normal((vectors.shape[1], _FREQUENCIES)) / width)
    return np.asarray(np.concatenate([np.cos(waves), np.sin(waves)], axis=1) / np.sqrt(_FREQUENCIES))


def _kind(kind: pa.DataType) -> type[_Pair]:
    if pa.types.is_boolean(kind):
        return _Flags
    if pa.types.is_fixed_size_list(kind):
        return _Vectors
    return _Numbers if pa.types.is_floating(kind) or pa.types.is_integer(kind) else _Categories


def _present(column: pa.ChunkedArray) -> tuple[Array, Array]:
    """Return the rows that have a value, and the values."""
    valid = np.asarray(column.is_valid())
    values = np.asarray(column.to_pylist(), dtype=object) if _is_text(column) else np.asarray(column.to_numpy())
    if np.issubdtype(values.dtype, np.floating):
        valid = valid & np.isfinite(values)
    rows = np.flatnonzero(valid)
    return rows, values[rows]


def _is_text(column: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))


def _present_vectors(column: pa.ChunkedArray) -> tuple[Array, Array]:
    whole = column.combine_chunks()
    rows = np.flatnonzero(np.asarray(whole.is_valid()))
    values = whole.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(len(rows), -1)
    return rows, values.astype(np.float64)


def _quantiles(values: Array) -> str:
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return f"median {middle:.4g} (5% to 95%: {low:.4g} to {high:.4g})"
