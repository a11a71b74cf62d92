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
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from optinfer.commands.readiness import require_ready
from optinfer.commands.resolved import Resolved, resolve
from optinfer.commands.summary import Summary
from optinfer.config import AUTO, JobConfig
from optinfer.data.account import Accounts, Committed
from optinfer.data.lock import RunLock
from optinfer.data.output import Output
from optinfer.data.output_listing import few
from optinfer.data.storage import reaching
from optinfer.errors import AccountingError, LoadError
from optinfer.execution.executor import Executor
from optinfer.execution.on_ray import OnRay
from optinfer.execution.placing import placed
from optinfer.execution.scorer import ScoringTask
from optinfer.execution.todo import Todo
from optinfer.optimization.pools import Pools, pools, prefixed, with_not_chosen
from optinfer.records.placement import Placement
from optinfer.system import home
from optinfer.tracking.mlflow_tracker import MlflowTracker
from optinfer.tracking.progress import Progress
from optinfer.tracking.recorder import Recorder
from optinfer.tracking.tally import Tally

Say = Callable[[str], None]
# How often the folder is looked at: each time, what it lacks has been scored (again).
_LOOKS = 4


def _silent(line: str) -> None:
    pass


@dataclass(frozen=True)
class _Run:
    """What the steps of one run share."""

    job: Resolved
    output: Output
    lock: RunLock
    accounts: Accounts
    tally: Tally
    summary: Summary
    recorder: Recorder
    executor: Executor
    say: Say


def run(
    config: JobConfig, address: str | None = None, say: Say = _silent, executor: Executor | None = None
) -> dict[str, Any]:
    """Score the job's table and return the record that `optinfer run --json` prints.

    Args:
        config: the job.
        address: None uses `RAY_ADDRESS` or starts Ray here; `local` always starts it; else a cluster's address.
        say: is told, line by line, what is going on.
        executor: where the replicas run; None takes Ray at `address`. `InProcess()` needs no Ray.

    Raises:
        OptinferError: with the exit code of its class; committed fragments stay, the same call goes on from them.
    """
    summary = Summary(started=time.time(), run_id=f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}")
    job, executor = resolve(config), executor or OnRay(address)
    output = job.output()
    with reaching(config.sink.path):
        done = output.finished(job.fingerprint)
        damage = output.damage(done)[1].named() if done else ()
    if done and not damage:
        if done.get("job", {}).get("gate") != config.gate.model_dump(mode="json"):
            say("warning: this output was finished under another gate; to score under this one, choose a new sink.path")
        return summary.nothing_to_do(done["run"])
    require_ready(job, executor.machine())
    with executor, RunLock(output.folder) as lock:
        output.binding.freeze({"fingerprint": job.fingerprint, "fields": job.fields}, job.plan)
        output.reopen()
        tracker = MlflowTracker(config.tracking.uri or home.default_tracking_uri(), config.tracking.experiment)
        with Recorder(home.runs() / summary.run_id, tracker, time.time, say) as recorder:
            recorder.event("start", run_name=f"{config.name} {config.variant}", **summary.start(job))
            for line in job.plan.warnings:
                recorder.warn(line)
            for line in damage:
                recorder.warn(f"{output.shown} was finished, and no longer is what it was: {line}")
            tally = Tally(job.plan.rows, config.sink.error_threshold)
            accounts = Accounts(output.folder, job.fingerprint)
            _score(_Run(job, output, lock, accounts, tally, summary, recorder, executor, say))
            tally.check_threshold(f"{output.shown}/_quarantine")
            tally.check_complete(output.shown)
            manifest = output.finish(summary.manifest(job, tally, recorder), accounts, job.plan)
            executor.release()  # takes a second; the output is finished whatever becomes of Ray
            mlflow = recorder.finish("done", **summary.finish(job, tally, manifest))
    return {**manifest["run"], "mlflow": mlflow}


def _score(run: _Run) -> None:
    """Prove a variant, bind the output to it and stream; an output that holds rows already keeps the variant it has.

    A variant that was proved here may still not load on a replica: then the next one takes over, as long as nothing is
    committed, so that no output mixes two. Of two that score together nobody knows which did not load: that ends it.
    """
    run.output.attempts.forget()
    found = _resume(run)
    left = np.setdiff1d(np.arange(max(len(run.job.plan.fragments), 1)), found.fragments)
    if run.job.plan.rows == 0:
        return _complete(run, left, partial(_commit_nothing, run))
    failed: list[tuple[str, str]] = []
    error: LoadError | None = None
    for candidate in pools(run.job.bench(run.say), only=run.output.binding.bound_variants()):
        proved = run.summary.pools = with_not_chosen(candidate, failed)
        _announce(proved, dict(failed), run)
        run.output.binding.bind_variant(proved.identity, found)
        run.output.binding.require_artifacts([artifact.key for artifact in proved.artifacts], found)
        try:
            return _complete(run, left, partial(_stream, proved, run))
        except LoadError as caught:
            if run.tally.counted or run.output.sink.committed() or len(run.summary.placements) > 1:
                raise
            error, run.summary.placements = caught, ()
            failed.append((proved.first.variant.name, f"a replica cannot load it: {error}"))
    raise error or AssertionError("there is a candidate, or none passed")


def _announce(proved: Pools, failed: dict[str, str], run: _Run) -> None:
    config, first = run.job.config, proved.first
    for line in proved.warnings:
        run.recorder.warn(line)
    for name, reason in first.not_chosen:
        if config.variant == AUTO and name not in failed:
            run.say(f"not {name}: {reason}")
        else:
            run.recorder.warn(f"{name} does not score: {reason}")
    for name, reason in (entry for further in proved.each[1:] for entry in further.not_chosen):
        run.say(f"not {name} on CPUs: {reason}")
    if config.placement.cpu_variant and len(proved) == 1:
        run.recorder.warn(
            f"placement.cpu_variant is left out: {first.variant.name} runs on the CPUs of all nodes itself"
        )
    run.summary.mark("prepare")
    run.recorder.event("selection", chosen=first.variant.name, others=dict(first.not_chosen))


def _resume(run: _Run) -> Committed:
    """Count what is committed: a listing decides. What is damaged is removed, and is scored again."""
    found, total = run.output.resume(run.accounts, run.job.plan), len(run.job.plan.fragments)
    for name in found.dropped:
        run.recorder.warn(f"{name} cannot be read and is dropped; the parts it names are opened instead")
    for line in found.damaged:
        run.recorder.warn(f"{line}; it is removed and scored again")
    run.tally.take_over(found.fragments.tolist(), found.rows_in, found.rows_out, found.rows_quarantined)
    run.tally.rows_by_variant.update(found.rows_by_variant)
    if len(found.fragments) and total:
        run.say(f"resuming: {len(found.fragments):,} of {total:,} fragments are committed")
    return found


def _complete(run: _Run, left: np.ndarray[Any, Any], score: Callable[[np.ndarray[Any, Any]], None]) -> None:
    """Score what is left, look at the folder, and again while it lacks something: parts may go while others are made.

    Raises:
        AccountingError: it never held them all; says what is missing.
    """
    for _ in range(_LOOKS):
        score(left)
        run.accounts.flush()
        left, reasons = _lost(run)
        if not len(left):
            return
    raise AccountingError(
        f"{run.output.shown} loses parts as fast as they are made: {'; '.join(reasons)}; it is left without _SUCCESS: "
        "stop whoever writes there and run the same command again"
    )


def _lost(run: _Run) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
    """Hold the folder against plan and receipts; name, uncount and remove what is not there as it was committed."""
    if gone := run.output.binding.put_back_state():
        run.recorder.warn(f"{', '.join(gone)} was removed or changed during the run, and is put back")
        run.lock.renew()
        run.accounts.write_again()
    found, plan = run.output.compare(run.accounts, run.job.plan), run.job.plan
    for name in found.orphans:
        run.output.folder.delete(name)
    for line in few(found.reasons):
        run.recorder.warn(f"{line}: its fragment is scored again")
    if len(found.lost):
        run.output.remove(found.lost, run.accounts.table(), len(plan.fragments))
        held = run.accounts.forget(found.lost)
        run.accounts.write_again()
        run.tally.lose(found.lost.tolist(), held.rows_in, held.rows_out, held.rows_quarantined)
        run.tally.rows_by_variant -= Counter(held.rows_by_variant)
        run.output.attempts.forget()
    return found.lost, few(found.reasons)


def _commit_nothing(run: _Run, _: np.ndarray[Any, Any]) -> None:
    """Leave an output with a schema where the table is empty."""
    run.accounts.add(run.output.commit_empty(run.job.plan, run.job.fingerprint, run.job.schema))


def _stream(proved: Pools, run: _Run, left: np.ndarray[Any, Any]) -> None:
    """Place the replicas and count their receipts as fragments are committed."""
    if not len(left):
        return run.recorder.params(proved.params)
    run.executor.start()
    nodes = run.executor.nodes()
    run.summary.mark("ray")
    # What is scored again has the place of the replicas that have just ended, which Ray may still count as taken.
    placements = run.summary.placements = run.summary.placements or placed(
        run.job.config.placement, proved, proved.first.variant.device, nodes, len(left), run.executor.growing
    )
    for one, place in zip(proved, placements, strict=False):
        run.say(f"scoring with {one.variant.name}: {'; '.join(place.reasons)}")
    tally, task, todo = run.tally, _task(proved, placements, run), Todo(run.job.plan, left)
    progressing = Progress(run.job.plan.rows, tally.total.rows_in)
    # Closed also where a receipt ends the job: whoever keeps that error would keep the replicas scoring.
    with progressing as progress, closing(run.executor.stream(task, placements, todo)) as receipts:
        for count, receipt in enumerate(receipts):
            if count == 0:  # not before: until a replica has loaded it, another variant may take its place
                run.recorder.params({**proved.params, **_placement_params(placements)})
            run.recorder.event("receipt", **receipt.as_dict())
            run.accounts.add(receipt.made)
            tally.add(receipt)
            progress.advance(receipt.stats.rows_in, receipt.stats.rows_quarantined)
            tally.check_threshold(f"{run.output.shown}/_quarantine")


def _placement_params(placements: Sequence[Placement]) -> dict[str, Any]:
    return {
        f"placement.{name}": value
        for at, place in enumerate(placements)
        for name, value in prefixed(at, place.params).items()
    }


def _task(proved: Pools, placements: Sequence[Placement], run: _Run) -> ScoringTask:
    config = run.job.config
    # A pool that found no node has replicas on none, and its variant stays one whose rows the output may hold.
    threads = [place.threads_per_replica for place in placements] + [placements[-1].threads_per_replica] * len(proved)
    return ScoringTask(
        pools=tuple(replace(one.settings, threads=count) for one, count in zip(proved, threads, strict=False)),
        source=run.job.subject.source,
        sink=run.job.sink,
        columns=config.source.columns,
        columns_read=config.source.columns_read,
        carried=run.job.carried,
        output_url=config.sink.path,
        fingerprint=run.job.fingerprint,
        on_error=config.sink.on_error,
        on_bad_file=config.source.on_bad_file,
    )
