"""Draws what the dashboard's queries give on a real run: the demo's job on Ray here, scraped by a real Prometheus.

Usage: python -m tests.cluster.picture FILE.png [VARIANT]. No Grafana is needed, and none is shown: each panel holds the series
that Prometheus answers to that panel's queries, over the time of the run.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray

import optinfer
from optinfer.job_file import load_job
from tests.cluster.scraped import free_port, panels, prometheus
from tests.conftest import REPO

_STEP_SECONDS = 2.0
_COLUMNS = 2
_WIDTH, _HEIGHT, _DPI = 12.0, 2.1, 90


def draw(series: dict[str, list[dict[str, Any]]], began: float, target: Path, title: str) -> None:
    """Draw a panel for each of the dashboard's, with its series by their labels."""
    import matplotlib.pyplot as plt

    rows = -(-len(series) // _COLUMNS)
    figure, axes = plt.subplots(rows, _COLUMNS, figsize=(_WIDTH, _HEIGHT * rows), sharex=True, layout="constrained")
    for axis, (name, found) in zip(axes.flat, series.items(), strict=False):
        for one in found:
            times, values = zip(*((float(at) - began, float(value)) for at, value in one["values"]), strict=True)
            label = " ".join(text for key, text in sorted(one["metric"].items()) if key in ("variant", "device"))
            axis.plot(times, values, label=label or None)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        if any(one["metric"] for one in found):
            axis.legend(fontsize=6, frameon=False)
    for axis in axes[-1]:
        axis.set_xlabel("seconds since the command began", fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(target, dpi=_DPI)


def main(target: Path, variant: str = "onnx-fp32") -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, metrics = Path(name), free_port()
        job = load_job(
            str(REPO / "jobs" / "embed_packages.yaml"), (f"variant={variant}", f"sink.path={folder / 'out'}")
        )
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, object_store_memory=128 * 2**20, log_to_driver=False,
            logging_level=logging.ERROR, _metrics_export_port=metrics, _system_config={"metrics_report_interval_ms": 1000},
        )  # fmt: skip
        with prometheus(folder, metrics, every="2s") as asked:
            began = time.time()
            record = optinfer.run(job, say=print)
            ended = time.time()
            series = {
                title: [one for query in queries for one in asked.ask_range(query, began, ended, _STEP_SECONDS)]
                for title, queries in panels().items()
            }
    print(json.dumps({title: len(found) for title, found in series.items()}))
    said = f"{record.rows_out:,} rows with {record.variant}, {record.rows_per_second:.0f} rows/s"
    draw(series, began, target, said)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
