"""Who takes part in the throughput benchmark, and the rounds they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from running import ContestantError, limit, python, run_job, run_raw, run_worker, say
from running import prepare as prepare_job
from scoreboard import DAFT, NAIVE, OPTINFER, RAW, REFERENCE, WORKER, Run, Vectors, steady_rows_per_second
from tables import commits, take_vectors

from optinfer.config import AUTO
from optinfer.optimization.variants import VARIANTS, get
from optinfer.tracking import metrics

# What the model says; all contestants are told, so that none truncates elsewhere.
MAX_LENGTH = 256
ALL = "all"
# Name and module of each that does not know optinfer.
PEERS = {NAIVE: "ray_transformers", REFERENCE: "ray_sentence_transformers", DAFT: "daft_sentence_transformers"}

Contestants = dict[str, Callable[[], Run]]


@dataclass(frozen=True)
class Bench:
    """The tables and settings that contestants share; everything is written below `folder`.

    Attributes:
        table: Parquet with the columns `id` (row number) and `text`; `part` is the peers' part of it.
        dedupe: score repeated rows once, in jobs and in raw loops.
        peers: let those that do not know optinfer take part.
    """

    folder: Path
    table: Path
    rows: int
    part: Path
    part_rows: int
    model: Path
    dedupe: bool = True
    peers: bool = True

    def job(self, variant: str) -> Path:
        """Write the optinfer job of a variant."""
        path = self.folder / f"{variant}.yaml"
        job = {
            "name": f"throughput-{variant}",
            "source": {"path": str(self.table), "columns": {"text": "text"}},
            "model": {"path": str(self.model), "family": "text-embedding", "max_length": MAX_LENGTH},
            "variant": variant,
            "batching": {"dedupe": AUTO if self.dedupe else False},
            "sink": {"path": str(self.output(variant)), "columns": ["id"]},
            "tracking": {"experiment": "throughput"},
        }
        path.write_text(yaml.safe_dump(job), encoding="utf-8")
        return path

    def output(self, name: str) -> Path:
        return self.folder / f"{name}.output"


def peer(bench: Bench, module: str) -> Run:
    """Run a contestant that does not know optinfer, on the peers' part of the table."""
    output = bench.output(module)
    arguments = [str(bench.part), str(output), str(bench.model), str(MAX_LENGTH)]
    seconds, _ = python(limit(bench.part_rows), "-m", f"contestants.{module}", *arguments)
    return Run(rows=bench.part_rows, seconds=seconds, vectors=take_vectors(output))


def raw(bench: Bench, variant: str, facts: dict[str, Any]) -> Run:
    output = bench.output(f"raw-{variant}").with_suffix(".npz")
    measured = run_raw(bench.job(variant), bench.rows, output)
    with np.load(output, allow_pickle=False) as kept:
        vectors = Vectors(kept["id"], kept["output"])
    output.unlink()
    seconds = measured.pop("seconds")
    steady = bench.rows / seconds
    return Run(rows=bench.rows, seconds=seconds, steady_rows_per_second=steady, vectors=vectors, facts=facts | measured)


def worker(bench: Bench, variant: str, facts: dict[str, Any]) -> Run:
    measured = run_worker(bench.job(variant), bench.rows)
    output = bench.output(variant)
    measured["steady_by_receipts"] = measured.pop("steady_rows_per_second")
    steady = steady_rows_per_second(commits(output), measured["processes"])
    return Run(
        rows=measured.pop("rows_out"),
        seconds=measured.pop("seconds"),
        steady_rows_per_second=steady,
        vectors=take_vectors(output),
        facts=facts | measured,
    )


def optinfer(bench: Bench, variant: str, facts: dict[str, Any]) -> Run:
    done = run_job(bench.job(variant), bench.rows)
    placement, output = done.record["placement"], bench.output(variant)
    steady = steady_rows_per_second(commits(output), placement["replicas"])
    measured = {
        "variant": done.record["variant"],
        "processes": placement["replicas"],
        "threads": placement["threads_per_replica"],
        "startup_seconds": done.record["startup_seconds"],
        "driver_peak_rss_mb": done.metrics[metrics.DRIVER_RSS.name],
        "replica_peak_rss_mb": done.metrics[metrics.RSS.name],
        "steady_by_receipts": done.record["steady_rows_per_second"],
    }
    return Run(
        rows=done.record["rows_out"],
        seconds=done.seconds,
        steady_rows_per_second=steady,
        vectors=take_vectors(output),
        facts=facts | measured,
    )


def chosen(names: str) -> list[str]:
    """Return the variants that a command line names: some, `auto`, or `all` that compute on CPUs.

    Raises:
        ConfigError: there is no such variant.
    """
    if names == ALL:
        return [variant.name for variant in VARIANTS.values() if variant.device == "cpu"]
    return [name if name == AUTO else get(name).name for name in names.split(",")]


def prepare(bench: Bench, names: Sequence[str]) -> tuple[dict[str, dict[str, Any]], list[dict[str, str]]]:
    """Build and certify before the clock starts; `auto` proves every variant.

    Returns:
        facts by variant that may score, and name and reason of each that may not.
    """
    ready, left_out = {}, []
    for name in names:
        reason = None if name == AUTO else get(name).unavailable()
        if not reason:
            say(f"preparing {name} (not timed)")
            facts = prepare_job(bench.job(name))
            reason = facts.pop("refused", None)
        if reason:
            left_out.append({"name": name, "reason": reason})
        else:
            ready[name] = facts
    return ready, left_out


def line_up(bench: Bench, ready: dict[str, dict[str, Any]]) -> Contestants:
    """Return all contestants, those of one variant side by side, so that they meet the same machine."""
    peers = PEERS if bench.peers else {}
    contestants: Contestants = {name: lambda module=module: peer(bench, module) for name, module in peers.items()}
    for variant, facts in ready.items():
        for prefix, run in ((RAW, raw), (WORKER, worker), (OPTINFER, optinfer)):
            contestants[prefix + variant] = lambda run=run, of=variant, facts=facts: run(bench, of, facts)
    return contestants


def compete(contestants: Contestants, repeats: int) -> tuple[dict[str, list[Run]], dict[str, str]]:
    """Run `repeats` rounds in rotated order; a contestant that fails is out, with its reason."""
    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    failed: dict[str, str] = {}
    for number in range(repeats):
        for name in rotated(list(contestants), number):
            if name in failed:
                continue
            try:
                run = contestants[name]()
            except ContestantError as error:
                failed[name] = str(error)
                say(f"{name} failed: {error}")
                continue
            runs[name].append(run)
            say(f"round {number + 1} of {repeats}: {name} {run.rows / run.seconds:.1f} rows/s")
    return {name: rounds for name, rounds in runs.items() if name not in failed}, failed


def rotated(names: list[str], by: int) -> Iterator[str]:
    by %= len(names)
    yield from names[by:] + names[:by]
