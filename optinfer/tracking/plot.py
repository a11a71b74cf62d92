"""A picture of a comparison: speed against quality, the Pareto front drawn through it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from optinfer.errors import ConfigError
from optinfer.records.comparison import Candidate, OptimizeRecord
from optinfer.records.tuning import Point, TuneRecord

R = TypeVar("R")

_PASSED, _FAILED, _GATE = "#1b6ca8", "#9a9a9a", "#a83232"


# What every installation of matplotlib writes.
_FORMATS = (".eps", ".jpeg", ".jpg", ".pdf", ".png", ".ps", ".svg", ".tif", ".tiff", ".webp")


def require_drawable(path: Path) -> None:
    """Refuse a file that no plot can become.

    Raises:
        ConfigError: its ending is no image's, or its folder cannot be made.
    """
    if path.suffix.lower() not in _FORMATS or path.is_dir():
        raise ConfigError(f"--plot {path} is no image file; end it with {', '.join(_FORMATS)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--plot {path}: its folder cannot be made: {error.strerror or error}; choose another"
        ) from error


def drawn(draw: Callable[[R, Path], None], record: R, path: Path, say: Callable[[str], None]) -> list[Path]:
    """Draw a record, and return where; a plot that cannot be made is said, and ends nothing."""
    try:
        draw(record, path)
    except ImportError:
        say("warning: no plot: matplotlib is not installed; fix: pip install 'optinfer[plot]'")
        return []
    except OSError as error:
        say(f"warning: no plot: {path} cannot be written: {error.strerror or error}; choose another place for it")
        return []
    return [path]


def draw(record: OptimizeRecord, path: Path) -> None:
    """Write a PNG of `optimize`'s record to `path`; raises ImportError where matplotlib is missing.

    Points are numbered as the table's rows are, because names would cover each other where variants lie close.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.5), layout="constrained")
    axes = figure.subplots()
    points = {candidate.variant: _point(candidate) for candidate in record.candidates}
    for number, candidate in enumerate(record.candidates, start=1):
        name, (x, y, low, high) = candidate.variant, points[candidate.variant]
        color = _PASSED if candidate.passed else _FAILED
        label = f"{number}  {name}{'' if candidate.passed else ' (does not pass)'}"
        axes.errorbar(
            x, y, yerr=[[max(y - low, 0)], [max(high - y, 0)]], fmt="o", color=color, capsize=2, ms=5, label=label
        )
        offset = (0, 7 if number % 2 else -14)
        axes.annotate(str(number), (x, y), xytext=offset, textcoords="offset points", fontsize=8, ha="center")
    front = sorted(points[name][:2] for name in record.pareto)
    if front:
        axes.plot(*zip(*front, strict=True), "--", color=_PASSED, lw=1, label="Pareto front")
    if not record.relative:
        axes.axhline(record.threshold, color=_GATE, lw=1, label=f"gate: {record.threshold:g}")
    axes.set_xlabel("rows per second, one replica")
    axes.set_ylabel(f"{record.metric}, with its 95% interval")
    axes.set_title(f"{record.job}: {len(points)} variants on {record.sample_rows} rows")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def draw_tuning(record: TuneRecord, path: Path) -> None:
    """Write a PNG of `tune`'s record to `path`: rows/s of the node over the micro-batch's limit, a colour a variant.

    Raises ImportError where matplotlib is missing.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.5), layout="constrained")
    axes = figure.subplots()
    series: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for trial in record.trials:
        point = trial.point
        if trial.measured:
            name = (point.variant, f"{point.replicas} x {point.threads}")
            series.setdefault(name, []).append((point.budget, trial.measured.rows_per_second))
    variants, layouts = (list(dict.fromkeys(name[i] for name in series)) for i in (0, 1))
    for (variant, layout), points in sorted(series.items()):
        color, marker = f"C{variants.index(variant) % 10}", "osD^vP<>"[layouts.index(layout) % 8]
        axes.plot(*zip(*sorted(points), strict=True), "--", color=color, marker=marker, lw=0.8, ms=6,
                  label=f"{variant}, {layout} threads")  # fmt: skip
    best = max(record.finalists, key=lambda f: (_is_winner(f.point, record), sorted(f.rows_per_second)))
    rates = sorted(best.rows_per_second)
    axes.plot(best.point.budget, rates[len(rates) // 2], "*", color=_GATE, ms=16, label="best, measured again")
    axes.set_xscale("log", base=2)
    axes.set_xlabel(record.budget)
    axes.set_ylabel("rows per second of the node")
    axes.set_title(f"{record.job}: {len(record.trials)} trials on {record.sample.rows} rows")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _is_winner(point: Point, record: TuneRecord) -> bool:
    winner = record.winner
    tokens_or_rows = winner.max_batch_tokens if record.budget == "max_batch_tokens" else winner.max_batch_size
    budget = tokens_or_rows or record.default.budget  # 0: the variant's own
    return point == Point(winner.variant, budget, winner.replicas, winner.threads_per_replica)


def _point(candidate: Candidate) -> tuple[float, float, float, float]:
    fidelity = candidate.certificate.fidelity
    return candidate.certificate.rows_per_second, fidelity.value, fidelity.ci_low, fidelity.ci_high
