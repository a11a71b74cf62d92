"""From runs to standings: medians over the rounds, ratios to the peers and to the raw loop, cosines. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
from rich.table import Table

NAIVE = "ray-data-transformers-fp32"
REFERENCE = "ray-data-sentence-transformers"
DAFT = "daft-sentence-transformers"
RAW = "raw:"
WORKER = "worker:"
OPTINFER = "optinfer:"
# Key of the ratio to each contestant that does not know optinfer.
RATIOS = {"ratio_naive": NAIVE, "ratio_sentence_transformers": REFERENCE, "ratio_daft": DAFT}


@dataclass(frozen=True)
class Vectors:
    """One vector a row: `ids` (rows,) unique, `values` (rows, width)."""

    ids: np.ndarray[Any, Any]
    values: np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of one contestant.

    Attributes:
        seconds: wall clock of the whole process; for a raw loop, of the loop alone.
        steady_rows_per_second: without start-up, where the contestant can tell.
        facts: more to print in the JSON.
    """

    rows: int
    seconds: float
    steady_rows_per_second: float | None = None
    vectors: Vectors
    facts: dict[str, Any] = field(default_factory=dict)


def standings(runs: Mapping[str, Sequence[Run]]) -> list[dict[str, Any]]:
    """Return one result for each contestant, in the order given; `runs` holds a contestant's runs, one a round."""
    speed = {name: median(run.rows / run.seconds for run in rounds) for name, rounds in runs.items()}
    reference = runs[REFERENCE][-1].vectors if REFERENCE in runs else None
    return [_result(name, rounds, speed, reference) for name, rounds in runs.items()]


def _result(name: str, rounds: Sequence[Run], speed: Mapping[str, float], reference: Vectors | None) -> dict[str, Any]:
    steady = [run.steady_rows_per_second for run in rounds if run.steady_rows_per_second is not None]
    cosines = cosine(reference, rounds[-1].vectors) if reference else np.array([])
    prefix, _, variant = name.partition(":")
    raw = speed.get(RAW + variant) if f"{prefix}:" in (WORKER, OPTINFER) else None
    return {
        "name": name,
        "rows_per_second": round(speed[name], 2),
        "steady_rows_per_second": round(median(steady), 2) if steady else None,
        **{key: round(speed[name] / speed[peer], 3) if peer in speed else None for key, peer in RATIOS.items()},
        "ratio_raw": round(speed[name] / raw, 4) if raw else None,
        "steady_ratio_raw": round(median(steady) / raw, 4) if raw and steady else None,
        "cosine_mean": round(float(cosines.mean()), 6) if len(cosines) else None,
        "cosine_min": round(float(cosines.min()), 6) if len(cosines) else None,
        "cosine_rows": len(cosines),
        "rows": rounds[-1].rows,
        "seconds": [round(run.seconds, 3) for run in rounds],
        **rounds[-1].facts,
    }


def steady_rows_per_second(commits: Sequence[tuple[float, int]], replicas: int) -> float | None:
    """Return the speed between each replica's first part and its last, None where there are too few parts.

    Both ends are left out, because replicas work ahead: at the first commit the next fragments are half done. Up to the
    last commit such work would be counted that no time was counted for, and a few fragments would beat the raw loop.

    Args:
        commits: (seconds on any clock, rows) of each committed part.
        replicas: how many parts are left out at either end.
    """
    ordered = sorted(commits)
    counted = ordered[replicas : len(ordered) - replicas]
    if not counted or counted[-1][0] <= ordered[replicas - 1][0]:
        return None
    return sum(rows for _, rows in counted) / (counted[-1][0] - ordered[replicas - 1][0])


def cosine(reference: Vectors, other: Vectors) -> np.ndarray[Any, Any]:
    """Return the cosine similarity of every id that both hold."""
    _, left, right = np.intersect1d(reference.ids, other.ids, assume_unique=True, return_indices=True)
    a, b = (v.astype(np.float64) for v in (reference.values[left], other.values[right]))
    return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def table(results: Sequence[Mapping[str, Any]], title: str, notes: Sequence[str]) -> Table:
    shown = Table(title=title, title_justify="left", caption="\n".join(notes), caption_justify="left")
    shown.add_column("contestant", no_wrap=True)
    for heading in (
        "rows",
        "rows/s",
        "steady",
        "× naive",
        "× s-t",
        "× daft",
        "of raw",
        "steady",
        "cosine",
        "worst",
        "build s",
    ):
        shown.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        shown.add_row(
            result["name"],
            f"{result['rows']:,}",
            _number(result["rows_per_second"], ".1f"),
            _number(result["steady_rows_per_second"], ".1f"),
            *(_number(result[key], ".2f") for key in RATIOS),
            _number(result["ratio_raw"], ".0%"),
            _number(result["steady_ratio_raw"], ".0%"),
            _number(result["cosine_mean"], ".5f"),
            _number(result["cosine_min"], ".4f"),
            _number(result.get("build_seconds"), ".1f"),
        )
    return shown


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
