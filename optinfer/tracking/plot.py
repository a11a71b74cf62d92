"""A picture of a comparison: speed against quality, the Pareto front drawn through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_PASSED, _FAILED = "#1b6ca8", "#b9b9b9"


def draw(record: dict[str, Any], path: Path) -> None:
    """Write a PNG of `optimize`'s record to `path`; raises ImportError where matplotlib is missing."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    points = {c["variant"]: _point(c) for c in record["candidates"]}
    for candidate in record["candidates"]:
        x, y, low, high = points[candidate["variant"]]
        color = _PASSED if candidate["passed"] else _FAILED
        axes.errorbar(x, y, yerr=[[max(y - low, 0)], [max(high - y, 0)]], fmt="o", color=color, capsize=2, ms=5)
        axes.annotate(candidate["variant"], (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8, color=color)
    front = sorted(points[name][:2] for name in record["pareto"])
    axes.plot(*zip(*front, strict=True), "--", color=_PASSED, lw=1, label="Pareto front") if front else None
    if not record["relative"]:
        axes.axhline(record["threshold"], color="#a83232", lw=1, label=f"gate: {record['threshold']:g}")
    axes.set_xlabel("rows per second, one replica")
    axes.set_ylabel(f"{record['metric']}, with its 95% interval")
    axes.set_title(f"{record['job']}: {len(points)} variants on {record['sample_rows']} rows; grey ones do not pass")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _point(candidate: dict[str, Any]) -> tuple[float, float, float, float]:
    certificate = candidate["certificate"]
    fidelity = certificate["fidelity"]
    return certificate["rows_per_second"], fidelity["value"], fidelity["ci_low"], fidelity["ci_high"]
