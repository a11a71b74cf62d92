"""A job on a real Ray whose metrics are scraped just before its last receipt is counted (see test_meter.py).

Usage: python -m tests.execution.metered FOLDER PORT; its last line is {"record", "text", "receipts"}: what `run` answers,
what the node's agent then serves to Prometheus, and the receipts' totals.
"""

from __future__ import annotations

import json
import logging
import sys
import urllib.request
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from prometheus_client.parser import text_string_to_metric_families

import optinfer
from optinfer.commands import resolved
from optinfer.execution.on_ray import OnRay
from optinfer.execution.task import ScoringTask
from optinfer.execution.todo import Todo
from optinfer.job_file import parse_job
from optinfer.optimization.trial import HERE
from optinfer.optimization.variants import VARIANTS, Variant
from optinfer.records.placement import Placement
from optinfer.records.receipt import Receipt
from optinfer.records.stats import Stats
from tests.conftest import job_settings, wait_until

ROWS, FRAGMENT_ROWS, NULLS = 96, 16, 5
_FAMILIES = 6


class Scraped(OnRay):
    """Ray, whose metrics are read while the replicas that made the last receipt are still there."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._url = f"http://127.0.0.1:{port}/metrics"
        self.text = ""
        self.total = Stats()

    def stream(self, task: ScoringTask, placements: Sequence[Placement], todo: Todo) -> Generator[Receipt, None, None]:
        for count, receipt in enumerate(super().stream(task, placements, todo), 1):
            self.total += receipt.stats
            if count == len(todo):
                self.text = wait_until(partial(self._all_of, count), "every fragment is in the metrics")
            yield receipt

    def _all_of(self, fragments: int) -> str:
        with urllib.request.urlopen(self._url, timeout=10) as answer:
            text: str = answer.read().decode()
        # Each is sent by itself: a snapshot may have some of them as they were a moment before.
        counted = {"fragments": fragments, "rows": self.total.rows_out, "quarantined_rows": self.total.rows_quarantined}
        whole = all(total(text, f"ray_optinfer_{name}_total") == count for name, count in counted.items())
        families = [one for one in text_string_to_metric_families(text) if one.name.startswith("ray_optinfer_")]
        return text if whole and len(families) == _FAMILIES else ""


def total(text: str, name: str) -> float:
    """Add up a sample of all workers."""
    found = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return sum(sample.value for sample in found if sample.name == name)


def main(folder: Path, port: int) -> None:
    resolved.APART = HERE
    VARIANTS["fake"] = Variant(name="fake", backend="fake", about="for tests")
    texts = [None if i < NULLS else f"text {i}" for i in range(ROWS)]
    pq.write_table(pa.table({"id": [str(i) for i in range(ROWS)], "text": texts}), folder / "table.parquet")
    job = parse_job(
        job_settings(
            folder / "table.parquet", folder / "out", source__fragment_rows=FRAGMENT_ROWS, sink__error_threshold=NULLS
        )
    )
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, object_store_memory=128 * 2**20, log_to_driver=False,
        logging_level=logging.ERROR, _metrics_export_port=port, _system_config={"metrics_report_interval_ms": 200},
    )  # fmt: skip
    executor = Scraped(port)
    record = optinfer.run(job, executor=executor)
    print(json.dumps({"record": record.as_dict(), "text": executor.text, "receipts": executor.total.as_dict()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
