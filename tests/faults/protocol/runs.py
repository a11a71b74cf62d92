"""What a run does to its output, with the classes that do it, and rows that need no model.

The steps are those of `commands/run.py`, and a fragment's those of `execution/scorer.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import pyarrow as pa

from optinfer.commands.books import Books
from optinfer.commands.resolved import Resolved
from optinfer.data.fragments import Plan
from optinfer.data.lease import Watch
from optinfer.data.lock import RunLock
from optinfer.data.output import Output
from optinfer.errors import AccountingError, OptinferError, OutputConflictError
from optinfer.job_file import parse_job
from optinfer.optimization.subject import Subject
from optinfer.records.binding import Bound
from optinfer.records.manifest import Manifest
from optinfer.records.part import Part
from optinfer.records.run import RunRecord
from optinfer.records.stats import Stats
from optinfer.system.process import Place
from optinfer.tracking.recorder import Recorder
from tests.conftest import fragments, job_settings
from tests.data.committing import receipt
from tests.faults.protocol.world import Run

FRAGMENTS, ROWS, BAD = 3, 2, 3
BOUND = Bound(variant="v", artifact="a")
_SCHEMA = pa.schema([("id", pa.int64()), ("by", pa.string())])


class Unrecorded:
    """A recorder of nothing."""

    warnings: Sequence[str] = ()

    def event(self, event: object) -> None:
        pass

    warn = event


@dataclass(frozen=True)
class Protocol:
    """What runs are made of; a mutant has another of one."""

    output: type[Output] = Output
    lock: type[RunLock] = RunLock
    conditional: bool = True


def job() -> Resolved:
    config = parse_job(job_settings("table.parquet", "out", sink__error_threshold=0.5))
    cuts = fragments(*((at * ROWS, (at + 1) * ROWS) for at in range(FRAGMENTS)))
    subject = Subject(config=config, **dict.fromkeys(("source", "model", "family", "family_settings", "catalog")))  # type: ignore[arg-type]
    return Resolved(subject, "parquet", Plan((), cuts, _SCHEMA), _SCHEMA, _SCHEMA, {"source": {"rows": 6}}, "")


def work(job: Resolved, protocol: Protocol, machine: str, pid: int, run: Run) -> str:
    """Do what a run does; return how it ended."""
    output = protocol.output(f"histories://{run.name}/out")
    runs = run.world.runs

    def began(pid: int) -> float | None:
        return float(pid) if (found := runs.get(f"run-{pid}")) and not found.end else None

    watch = Watch(lambda: run.world.now, 20.0, Place(machine, pid, began))
    lock = protocol.lock(output.folder, clock=lambda: run.world.wall, beat_seconds=1e6, watch=watch, wait=run.wait)
    try:
        return _run(job, output, lock, run)
    except AccountingError:
        raise
    except OutputConflictError:
        return "conflict"
    except (OptinferError, OSError):
        return "failed"


def _run(job: Resolved, output: Output, lock: RunLock, run: Run) -> str:
    done = output.finished(job.fingerprint)
    if done and not output.damage(done)[1].named():
        return "nothing to do"
    with output.held(lambda line: None, lock):
        output.binding.freeze(job.frozen, job.plan)
        output.reopen()
        books = Books.opened(job, output, lock, cast("Recorder", Unrecorded()), lambda line: None)
        output.attempts.forget()
        found = books.resume()
        output.binding.bind_variant(BOUND, found)
        output.binding.require_artifacts(["a"], found)
        books.until_whole(books.left(found), partial(_score, job, books, run))
        books.check()
        record = RunRecord(run_id=run.name, fragments=FRAGMENTS, rows_in=FRAGMENTS * ROWS)
        books.close(Manifest(run=record))
        return "done"


def _score(job: Resolved, books: Books, run: Run, left: Any) -> None:
    run.phase = "scoring"
    for index in left.tolist():
        made = commit(job, books.output, run, index)
        books.lock.require()  # the heartbeat
        stats = Stats(rows_in=made.rows_in, rows_out=made.rows_out, rows_quarantined=made.rows_quarantined)
        books.count(replace(receipt(index, stats, {}, 0.0), made=made))
    run.phase = "counting"


def commit(job: Resolved, output: Output, run: Run, index: int) -> Part:
    """Do what a replica does with a fragment."""
    name = job.plan.part_name(index)
    if output.attempts.begin(name, "here") and (done := output.sink.read([name])[0]):
        return done
    ids = range(index * ROWS, (index + 1) * ROWS)
    scored = pa.table({"id": [i for i in ids if i != BAD], "by": [run.name for i in ids if i != BAD]}, schema=_SCHEMA)
    bad = pa.table({"_row": [i for i in ids if i == BAD], "_reason": [run.name for i in ids if i == BAD]})
    part = Part(fragment=index, fingerprint=job.fingerprint, artifact="a", variant="v", rows_in=ROWS)
    return output.sink.put(name, part, scored, bad if bad.num_rows else None, {"a"})


def straggle(job: Resolved, index: int, run: Run) -> str:
    """Do what a replica does whose driver is gone."""
    try:
        commit(job, Output(f"histories://{run.name}/out"), run, index)
    except (OptinferError, OSError):
        return "failed"
    return "committed"
