"""A real Prometheus scrapes a real job on Ray, under the rules that are shipped, and answers the dashboard's queries.

Usage: python -m tests.cluster.scraped FOLDER; its last line is {"record", "panels", "totals", "alerts"}: what `run` answers,
panel -> the samples that each of its queries gives, and counters as Prometheus has them when the last row is counted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import yaml

import optinfer
from optinfer.commands import resolved
from optinfer.execution.on_ray import OnRay
from optinfer.job_file import parse_job
from optinfer.optimization.trial import HERE
from optinfer.records.receipt import Receipt
from tests.cluster.manifests import CLUSTER, program
from tests.conftest import free_ports, job_settings, wait_until
from tests.execution.scenarios import Meeting, Suite

MONITORING = CLUSTER / "monitoring"
ROWS, FRAGMENT_ROWS, NULLS = 96, 16, 5
COUNTERS = ("rows", "quarantined_rows", "fragments")
HERE_ALONE = "127.0.0.1"


@dataclass(frozen=True)
class Prometheus:
    """One that runs, and is asked."""

    port: int

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Return the samples of an instant query."""
        return self._answer("query", query=query)

    def ask_range(self, query: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """Return the series of a query over a time."""
        return self._answer("query_range", query=query, start=start, end=end, step=step)

    def value(self, query: str) -> float:
        """Return the one sample of a query; 0 where there is none yet."""
        return sum(float(sample["value"][1]) for sample in self.ask(query))

    def _answer(self, what: str, **asked: object) -> list[dict[str, Any]]:
        url = f"http://{HERE_ALONE}:{self.port}/api/v1/{what}?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found


@contextlib.contextmanager
def prometheus(folder: Path, metrics: int, every: str = "2s") -> Iterator[Prometheus]:
    """Run one with the shipped settings and rules, which scrapes a port of this machine more often than they say.

    Args:
        every: a scrape may take as long, too.
    """
    settings = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    rules = yaml.safe_load((MONITORING / "rules.yaml").read_text())
    settings["global"] |= {"scrape_interval": every, "evaluation_interval": every}
    for group in rules["groups"]:
        group["interval"] = every
    (scrape,) = settings["scrape_configs"]
    del scrape["file_sd_configs"]
    scrape["static_configs"] = [{"targets": [f"{HERE_ALONE}:{metrics}"]}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings))
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    (port,) = free_ports(1)
    command = [program("prometheus"), f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/tsdb",
               f"--web.listen-address={HERE_ALONE}:{port}"]  # fmt: skip
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield Prometheus(port)
    finally:
        process.terminate()
        process.wait()


def panels() -> dict[str, list[str]]:
    """Return the title of each panel of the dashboard -> its queries, for every job and five minutes."""
    shown = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    return {
        panel["title"]: [_filled(target["expr"]) for target in panel["targets"]]
        for panel in shown
    }  # fmt: skip


def _filled(query: str) -> str:
    return query.replace("$__range", "5m").replace("$job", ".*")


class Watched(OnRay):
    """Ray, whose replicas wait until Prometheus has seen their first fragment, and stay until it has seen the last."""

    def __init__(self, asked: Prometheus, meeting: Meeting) -> None:
        super().__init__()
        self._asked, self._meeting = asked, meeting
        self.panels: dict[str, list[list[dict[str, Any]]]] = {}
        self.totals: dict[str, float] = {}

    def stream(self, task: Any, placements: Any, todo: Any) -> Generator[Receipt, None, None]:
        # A receipt comes when a run of fragments is scored, and so after the call that waits.
        threading.Thread(target=self._release, daemon=True).start()
        for count, receipt in enumerate(super().stream(task, placements, todo), 1):
            if count == len(todo):
                wait_until(lambda: self._total("fragments") == len(todo), "Prometheus has every fragment", 120.0)
                wait_until(self._all_answered, "every query has an answer", 120.0)
                self.totals = {name: self._total(name) for name in COUNTERS}
            yield receipt

    def _release(self) -> None:
        try:
            wait_until(lambda: self._total("fragments") >= 1, "Prometheus has a fragment", 180.0)
        finally:
            self._meeting.release()

    def _total(self, name: str) -> float:
        return self._asked.value(f"sum(ray_optinfer_{name}_total)")

    def _all_answered(self) -> bool:
        """Ask all of the dashboard; rules are evaluated a moment after what they are made from is there."""
        self.panels = {title: [self._asked.ask(query) for query in queries] for title, queries in panels().items()}
        return all(samples for answers in self.panels.values() for samples in answers)


def main(folder: Path) -> None:
    resolved.APART = HERE
    texts = [None if i < NULLS else f"text {i}" for i in range(ROWS)]
    suite, (metrics,) = Suite(folder), free_ports(1)
    pq.write_table(pa.table({"id": [str(i) for i in range(ROWS)], "text": texts}), suite.source)
    meeting = suite.faulty("watched", hold_after=1)
    changes = {"variant": "faulty", "source__fragment_rows": FRAGMENT_ROWS, "sink__error_threshold": NULLS}
    job = parse_job(job_settings(suite.source, folder / "out", source__columns={"text": "text"}, **changes))
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, object_store_memory=128 * 2**20, log_to_driver=False,
        logging_level=logging.ERROR, _metrics_export_port=metrics, _system_config={"metrics_report_interval_ms": 200},
    )  # fmt: skip
    with prometheus(folder, metrics) as asked:
        executor = Watched(asked, meeting)
        record = optinfer.run(job, executor=executor)
        said = {"record": record.as_dict(), "panels": executor.panels, "totals": executor.totals}
        print(json.dumps({**said, "alerts": asked.ask("ALERTS")}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
