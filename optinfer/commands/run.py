"""run(config): the whole path of a record on one screen. Plan, prepare, place, stream, commit, account, record.

plan      list the source, cut it into fragments, compute the fingerprint     commands/resolved, data/
prepare   build, certify and gate the variant on a sample of the job's rows   optimization/
place     replicas and their share of the cluster; refuse what cannot run     execution/placement
stream    Ray Data actors read, score and commit one fragment after another   execution/pipeline
account   rows in = rows scored + rows quarantined, and the folder holds      tracking/tally, data/output
          just that: else what it lacks is scored again; manifest, _SUCCESS
record    journal first, MLflow from it                                       tracking/
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from optinfer.commands.books import Books
from optinfer.commands.candidates import announce, candidates
from optinfer.commands.news import News
from optinfer.commands.readiness import require_ready
from optinfer.commands.resolved import Resolved, resolve
from optinfer.commands.scoring import stream
from optinfer.commands.summary import Summary
from optinfer.config import JobConfig
from optinfer.errors import LoadError
from optinfer.execution.executor import Executor
from optinfer.execution.on_ray import OnRay
from optinfer.records.run import RunRecord
from optinfer.system.outages import reaching
from optinfer.tracking.recorder import new_run_id, recorder_of

Say = Callable[[str], None]


def _silent(line: str) -> None:
    pass


@dataclass(frozen=True)
class _Run:
    """What the steps of one run share."""

    job: Resolved
    books: Books
    summary: Summary
    executor: Executor
    say: Say


def run(
    config: JobConfig,
    address: str | None = None,
    say: Say = _silent,
    executor: Executor | None = None,
    retry: bool = False,
) -> RunRecord:
    """Score the job's table and return the record that `optinfer run --json` prints.

    Args:
        config: the job.
        address: None uses `RAY_ADDRESS` or starts Ray here; `local` always starts it; else a cluster's address.
        say: is told, line by line, what is going on.
        executor: where the replicas run; None takes Ray at `address`. `InProcess()` needs no Ray.
        retry: rows that were quarantined are tried again, also where the job is done; the others' answers stay.

    Raises:
        OptinferError: with the exit code of its class; committed fragments stay, the same call goes on from them.
    """
    summary = Summary(started=time.time(), run_id=new_run_id(), retry=retry)
    with News(config, summary.run_id, say) as news:
        return news.done(_told(config, summary, executor or OnRay(address), say, news))


def _told(config: JobConfig, summary: Summary, executor: Executor, say: Say, news: News) -> RunRecord:
    job = resolve(config, runs_here=executor.machine() is not None)
    config = job.config
    output = job.output()
    if summary.retry:
        output.require_replaceable()
    with reaching(config.sink.path):
        done = output.finished(job.fingerprint)
        damage = output.damage(done)[1].named() if done else ()
    if done and not damage and not (summary.retry and done.run.rows_quarantined):
        if done.job.get("gate") != config.gate.model_dump(mode="json"):
            say("warning: this output was finished under another gate; to score under this one, choose a new sink.path")
        output.give_free_of_the_dead()
        return summary.nothing_to_do(done.run)
    news.started(job)
    require_ready(job, executor.machine())
    with executor, output.held(say) as lock:
        output.binding.freeze(job.frozen, job.plan)
        output.reopen()
        copies = output.journal_copies(summary.run_id)
        with recorder_of(config.tracking, summary.run_id, say, copies) as recorder:
            recorder.event(summary.start(job))
            for line in job.plan.warnings:
                recorder.warn(line)
            for line in damage:
                recorder.warn(f"{output.shown} was finished, and no longer is what it was: {line}")
            books = Books.opened(job, output, lock, recorder, say)
            with lock.ending_what_waits():
                _score(_Run(job, books, summary, executor, say))
                books.check()
                manifest = books.close(summary.manifest(job, books.tally, recorder))
            news.done(manifest.run)
            executor.release()  # takes a second; the output is finished whatever becomes of Ray
            mlflow = recorder.finish(summary.finish(job, books.tally, manifest))
    summary.keep(books.tally)
    return replace(manifest.run, mlflow=mlflow)


def _score(run: _Run) -> None:
    """Prove a variant, bind the output to it and stream; an output that holds rows already keeps the variant it has.

    A variant that was proved here may still not load on a replica: then the next one takes over, as long as nothing is
    committed, so that no output mixes two. Of several that score together nobody knows which did not load: it
    ends.
    """
    output, books = run.books.output, run.books
    output.attempts.forget()
    found = books.resume()
    left = books.left(found)
    if run.summary.retry:
        left = np.union1d(left, books.take_back(found))
    books.note_resumed()
    books.check_threshold()  # before anything is proved for rows that nobody wants then
    if run.job.plan.rows == 0:
        return books.until_whole(left, books.commit_nothing)
    failed: list[tuple[str, str]] = []
    error: LoadError | None = None
    bound = output.binding
    for candidate in candidates(run.job, run.executor, bound, run.say):
        proved = run.summary.pools = candidate.without(failed)
        announce(proved, dict(failed), run.job.config, books.recorder, run.say)
        run.summary.mark("prepare")
        bound.bind_variant(proved.identity, found)
        bound.require_artifacts(proved.identity.artifacts, found)
        try:
            return books.until_whole(left, partial(stream, proved, books, run.summary, run.executor))
        except LoadError as caught:
            if not books.untouched or len(run.summary.placements) > 1 or proved.arms:
                raise
            error, run.summary.placements = caught, ()
            failed.append((proved.first.variant.name, f"a replica cannot load it: {error}"))
    raise error or AssertionError("there is a candidate, or none passed")
