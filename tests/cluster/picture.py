"""Draws the dashboard of a real run, from the answers that a real Prometheus gave to the dashboard's own queries.

Not by Grafana, which no Debian, PyPI or npm package brings: its panels, titles, units and places are read from
`cluster/monitoring/dashboard.json`, and drawn by matplotlib.

Usage: python -m tests.cluster.picture JOB.yaml OUT.webp [--set a.b=value]...
"""

from __future__ import annotations

import json
import logging
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import ray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

import optinfer
from optinfer.job_file import load_job
from tests.cluster.scraped import MONITORING, Prometheus, prometheus
from tests.conftest import free_ports, wait_until

EVERY_SECONDS = 2
# Grafana's grid has 24 columns.
COLUMNS, INCHES = 24, 12.0
DARK, GREY, WHITE = "#181b1f", "#8e8e94", "#d8d9da"
LINES = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a")
UNITS: dict[str, Callable[[float, Any], str]] = {
    "percentunit": lambda value, _: f"{100 * value:.3g}%",
    "s": lambda value, _: f"{value:g} s" if value >= 1 or not value else f"{1000 * value:.0f} ms",
    "short": lambda value, _: f"{value:,.4g}",
    "locale": lambda value, _: f"{value:,.0f}",
}


def series(asked: Prometheus, target: dict[str, Any], began: float, ended: float) -> list[tuple[str, list[Any]]]:
    """Return the legend and the points of each series that a query gives over the run."""
    query = target["expr"].replace("$__range", f"{ended - began:.0f}s").replace("$job", ".*")
    found = []
    for one in asked.ask_range(query, began, ended, EVERY_SECONDS):
        legend = target["legendFormat"]
        for name, value in one["metric"].items():
            legend = legend.replace(f"{{{{{name}}}}}", value)
        points = [(float(at) - began, float(value)) for at, value in one["values"]]
        found.append((legend, [point for point in points if math.isfinite(point[1])]))  # 0/0 where nothing was counted
    return [one for one in found if one[1]]


def draw(axes: Axes, panel: dict[str, Any], drawn: list[tuple[str, list[Any]]]) -> None:
    """Draw one panel as its kind is drawn: a number, or lines over the seconds of the run."""
    unit = UNITS[panel["fieldConfig"]["defaults"]["unit"]]
    axes.set_facecolor(DARK)
    axes.set_title(panel["title"], loc="left", color=WHITE, fontsize=9)
    axes.tick_params(colors=GREY, labelsize=7)
    for spine in axes.spines.values():
        spine.set_color("#2c3235")
    if panel["type"] == "stat":
        axes.set(xticks=[], yticks=[])
        values = [value for _, points in drawn for _, value in points]
        # Replicas are gone when the run is over.
        last = unit(max(values) if panel["title"] == "Replicas" else values[-1], None) if values else "no data"
        axes.text(0.5, 0.42, last, color=LINES[0], fontsize=22, ha="center", va="center")
        return
    for (legend, points), colour in zip(drawn, LINES, strict=False):
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.2, label=legend)
    limits = panel["fieldConfig"]["defaults"]
    most = max((value for _, points in drawn for _, value in points), default=0.0)
    axes.set_ylim(bottom=limits["min"], top=limits.get("max") or 1.15 * most or 1.0)
    axes.yaxis.set_major_formatter(FuncFormatter(unit))
    axes.grid(color="#2c3235", linewidth=0.5)
    if drawn:
        axes.legend(fontsize=6, loc="lower right", facecolor=DARK, edgecolor="#2c3235", labelcolor=WHITE)


def picture(asked: Prometheus, began: float, ended: float) -> Figure:
    """Return the dashboard as it was laid out."""
    shown = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in shown)
    figure = Figure(figsize=(INCHES, INCHES * rows / COLUMNS * 0.62), facecolor="#111217")
    for panel in shown:
        place = panel["gridPos"]
        left, width = place["x"] / COLUMNS + 0.042, place["w"] / COLUMNS - 0.052
        height, bottom = place["h"] / rows, 1 - (place["y"] + place["h"]) / rows
        axes = figure.add_axes((left, bottom + 0.028, width, height - 0.06))
        draw(axes, panel, [one for target in panel["targets"] for one in series(asked, target, began, ended)])
    return figure


def main(job: str, out: str, *changes: str) -> None:
    matplotlib.use("Agg")
    config = load_job(job, changes[1::2], None)
    (metrics,) = free_ports(1)
    ray.init(
        address="local", include_dashboard=False, object_store_memory=256 * 2**20, log_to_driver=False,
        logging_level=logging.ERROR, _metrics_export_port=metrics, _system_config={"metrics_report_interval_ms": 1000},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, prometheus(Path(folder), metrics, f"{EVERY_SECONDS}s") as asked:
        began = time.time()
        record = optinfer.run(config, say=print)
        counted = "sum(ray_optinfer_rows_total)"
        wait_until(lambda: asked.ask_range(counted, began, time.time(), EVERY_SECONDS), "Prometheus has rows", 60.0)
        drawn = picture(asked, began, time.time())
        drawn.savefig(out, dpi=100, pil_kwargs={"quality": 80})
        print(json.dumps({"rows": record.rows_out, "seconds": record.seconds, "bytes": Path(out).stat().st_size}))


if __name__ == "__main__":
    main(*sys.argv[1:])
