"""From which size a change of rows or answers is found, and how often a night without one alarms; no model.

A night is drawn from real rows, without replacement, a share of it from rows that were changed. A text's vector is
scikit-learn's `HashingVectorizer`'s, `label` and `score` are those of its logistic regression on them; a damaged model
is one with noise on its weights. The last line of stdout is one JSON object with everything. `make bench-drift`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression

from optinfer.monitoring import drift, sketch

REPO = Path(__file__).resolve().parents[2]
SIZES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
DAMAGED = "damaged model: noise of 5 times this"
LATIN, CYRILLIC = "abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопярстувщхыз"
Change = Callable[[pa.Table], pa.Table]


def texts(change: Callable[[str], str | None]) -> Change:
    def changed(rows: pa.Table) -> pa.Table:
        return rows.set_column(2, "text", pa.array([change(text) for text in rows["text"].to_pylist()], pa.string()))

    return changed


CHANGES: Mapping[str, Change] = {
    "half as long again": texts(lambda text: text + " " + text[: len(text) // 2]),
    "nulls": texts(lambda text: None),
    "another alphabet": texts(lambda text: text.lower().translate(str.maketrans(LATIN, CYRILLIC))),
    "cut off at 200 characters": texts(lambda text: text[:200]),
    "repeated rows": lambda rows: rows,
}


@dataclass(frozen=True)
class Scored:
    """Rows with what was measured of them, and their vectors, row for row; of nulls there is no vector."""

    measured: pa.Table
    sections: np.ndarray[Any, Any]
    vectors: np.ndarray[Any, Any]


def scored(rows: pa.Table, repeated: bool = False) -> Scored:
    """Return what is measured of rows; a text's vector is scikit-learn's, of its words."""
    words = [text or "" for text in rows["text"].to_pylist()]
    vectors = HashingVectorizer(n_features=64).transform(words).toarray().astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    columns = {
        **sketch.measured("input.text", rows["text"], texts=True),
        **sketch.nulls("input.text", rows["text"]),
        **sketch.measured("column.section", rows["section"]),
        **sketch.measured("answer.embedding", column),
        "repeated": pa.array(np.full(rows.num_rows, repeated)),
    }
    kept = sketch.merged([(0, sketch.packed(np.arange(rows.num_rows), columns))])
    return Scored(without_places(kept), np.array(rows["section"].to_pylist()), vectors)


def answered(scored: Scored, model: LogisticRegression, noise: float = 0.0, turn: bool = False) -> pa.Table:
    """Return what is measured of rows whose model is this one, or one that is damaged, or has its vectors turned."""
    random = np.random.default_rng(0)
    weights = model.coef_ + noise * model.coef_.std() * random.standard_normal(model.coef_.shape)
    logits = scored.vectors @ weights.T + model.intercept_
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    table = scored.measured
    answers = {"answer.label": model.classes_[shares.argmax(axis=1)], "answer.score": shares.max(axis=1)}
    if turn:
        turned = np.roll(scored.vectors, 1, axis=1)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(turned.ravel()), turned.shape[1])
        (projected,) = sketch.measured("v", vectors).values()
        table = table.set_column(table.column_names.index("answer.embedding"), "answer.embedding", projected)
    for name, values in answers.items():
        table = table.append_column(name, pa.array(values))
    return table


def alarms(one: pa.Table, other: pa.Table, seed: int) -> list[str]:
    return [column.name for column in drift.compare(one, other, seed=seed) if column.moved]


@dataclass(frozen=True)
class Nights:
    """Draws nights of `rows` rows from a pool, none of them with a row of the reference."""

    pool: pa.Table
    rows: int
    draws: int

    def pair(self, random: np.random.Generator) -> tuple[pa.Table, np.ndarray[Any, Any]]:
        order = random.permutation(self.pool.num_rows)
        return self.pool.take(pa.array(order[: self.rows])), order[self.rows : 2 * self.rows]

    def quiet(self) -> dict[str, int]:
        """Return how many nights without a change alarm, in all and by what."""
        found: dict[str, int] = {"all": 0}
        for draw in range(self.draws):
            before, night = self.pair(np.random.default_rng(draw))
            names = alarms(before, self.pool.take(pa.array(night)), draw)
            found["all"] += bool(names)
            for name in names:
                found[name] = found.get(name, 0) + 1
        return found

    def found(self, changed: pa.Table, size: float, draws: int) -> tuple[float, list[str]]:
        """Return the share of nights with so much of a change that alarm, and what alarms in most of them."""
        counted: dict[str, int] = {}
        for draw in range(draws):
            random = np.random.default_rng(1000 + draw)
            before, night = self.pair(random)
            count = min(round(size * self.rows), changed.num_rows)
            planted = changed.take(pa.array(random.permutation(changed.num_rows)[:count]))
            rest = self.pool.take(pa.array(night[count:]))
            night_rows = pa.concat_tables([rest, planted], promote_options="permissive").combine_chunks()
            names = alarms(before, night_rows, draw)
            for name in ["all", *names] if names else []:
                counted[name] = counted.get(name, 0) + 1
        most = sorted((name for name in counted if name != "all"), key=lambda name: -counted[name])
        return counted.get("all", 0) / draws, most[:3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default=str(REPO / "jobs/data/packages.parquet"), help="Parquet: id, section, text")
    parser.add_argument("--rows", type=int, default=1500, help="rows that nights are drawn from")
    parser.add_argument("--night", type=int, default=700, help="rows of a night, and of the reference")
    parser.add_argument("--draws", type=int, default=200, help="nights without a change; with one: a tenth")
    given = parser.parse_args()
    table = pq.read_table(given.source, columns=["id", "section", "text"])
    table = table.filter(pc.is_valid(table["text"]))
    table = table.take(pa.array(np.random.default_rng(0).permutation(table.num_rows)))
    started = perf_counter()
    plain, others = scored(table.slice(0, given.rows)), table.slice(given.rows, given.night)
    seconds = {"measuring": (perf_counter() - started) * given.night / given.rows}
    model = LogisticRegression(max_iter=60).fit(plain.vectors[:993], plain.sections[:993])
    nights = Nights(answered(plain, model), given.night, given.draws)
    started = perf_counter()
    quiet = nights.quiet()
    seconds["comparing"] = (perf_counter() - started) / given.draws
    print(f"{quiet['all']} of {given.draws} nights without a change alarm ({given.night} rows each)", flush=True)
    found = planted(plain, others, model, nights)
    print(f"a night takes {seconds['measuring']:.3f} s to measure and {seconds['comparing']:.3f} s to compare")
    print(json.dumps({"quiet": quiet, "draws": given.draws, "found": found, "seconds": seconds}))


def planted(plain: Scored, others: pa.Table, model: LogisticRegression, nights: Nights) -> dict[str, Any]:
    """Print, change by change, the share of nights that alarm by its size; return these."""
    rows = {name: answered(scored(change(others), name == "repeated rows"), model) for name, change in CHANGES.items()}
    rows["nulls"] = scored(CHANGES["nulls"](others)).measured.drop_columns(["answer.embedding"])
    rows["more of one section"] = nights.pool.filter(pc.equal(nights.pool["column.section"], "python"))
    rows["vectors turned"] = answered(plain, model, turn=True)
    found: dict[str, Any] = {}
    print(f"| change | {' | '.join(f'{size:.0%}' for size in SIZES)} | found by |")
    print(f"|---|{'---|' * (len(SIZES) + 1)}")
    for name in [*rows, DAMAGED]:
        shares = {
            # Every row of the night is a damaged model's, and the size is that of the noise.
            size: nights.found(answered(plain, model, noise=5 * size), 1.0, max(nights.draws // 10, 1))
            if name == DAMAGED
            else nights.found(rows[name], size, max(nights.draws // 10, 1))
            for size in SIZES
        }
        found[name] = {str(size): share for size, (share, _) in shares.items()}
        by = ", ".join(shares[SIZES[-1]][1])
        print(f"| {name} | {' | '.join(f'{share:.0%}' for share, _ in shares.values())} | {by} |", flush=True)
    return found


def without_places(table: pa.Table) -> pa.Table:
    return table.drop_columns([sketch.FRAGMENT, sketch.ROW])


if __name__ == "__main__":
    main()
