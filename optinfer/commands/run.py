"""run(config): the whole path of a record on one screen. Plan, prepare, place, stream, commit, account, record.

plan      list the source, cut it into fragments, compute the fingerprint     planning.py, data/
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
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from optinfer.commands.planning import Planned, plan_job
from optinfer.commands.readiness import require_ready
from optinfer.commands.summary import Summary
from optinfer.config import AUTO, JobConfig
from optinfer.data.account import Accounts, Committed
from optinfer.data.lock import RunLock
from optinfer.data.output import Output
from optinfer.data.output_listing import few
from optinfer.data.storage import reaching
from optinfer.errors import AccountingError, LoadError, redact
from optinfer.execution.cluster import Connection
from optinfer.execution.placement import Placement
from optinfer.forecast.estimate import placed
from optinfer.optimization.mixed import beside
from optinfer.optimization.selection import Prepared, candidates
from optinfer.optimization.workbench import Workbench
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

    planned: Planned
    output: Output
    lock: RunLock
    accounts: Accounts
    tally: Tally
    summary: Summary
    recorder: Recorder
    ray: Connection
    say: Say


def run(config: JobConfig, address: str | None = None, say: Say = _silent) -> dict[str, Any]:
    """Score the job's table and return the record that `optinfer run --json` prints.

    Args:
        config: the job.
        address: None uses `RAY_ADDRESS` or starts Ray here; `local` always starts it; else a cluster's address.
        say: is told, line by line, what is going on.

    Raises:
        OptinferError: with the exit code of its class; committed fragments stay, the same call goes on from them.
    """
    summary = Summary(started=time.time(), run_id=f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}")
    planned = plan_job(config)
    output = Output(config.sink.path)
    with reaching(config.sink.path):
        done = output.finished(planned.fingerprint)
        damage = output.damage(done)[1].named() if done else ()
    if done and not damage:
        if done.get("job", {}).get("gate") != config.gate.model_dump(mode="json"):
            say("warning: this output was finished under another gate; to score under this one, choose a new sink.path")
        return summary.nothing_to_do(done["run"])
    require_ready(planned, address)
    with Connection(address) as ray, RunLock(output.folder) as lock:
        output.freeze({"fingerprint": planned.fingerprint, "fields": planned.fields}, planned.plan)
        output.reopen()
        tracker = MlflowTracker(config.tracking.uri or home.default_tracking_uri(), config.tracking.experiment)
        with Recorder(home.runs() / summary.run_id, tracker, time.time, say) as recorder:
            recorder.event("start", run_name=f"{config.name} {config.variant}", **summary.start(planned))
            for line in planned.plan.warnings:
                recorder.warn(line)
            for line in damage:
                recorder.warn(f"{output.shown} was finished, and no longer is what it was: {line}")
            tally = Tally(planned.plan.rows, config.sink.error_threshold)
            accounts = Accounts(output.folder, planned.fingerprint)
            _score(_Run(planned, output, lock, accounts, tally, summary, recorder, ray, say))
            tally.check_threshold(f"{output.shown}/_quarantine")
            tally.check_complete(output.shown)
            manifest = output.finish(summary.manifest(planned, tally, recorder), accounts, planned.plan)
            ray.release()  # takes a second; the output is finished whatever becomes of Ray
            mlflow = recorder.finish("done", **summary.finish(planned, tally, manifest))
    return {**manifest["run"], "mlflow": mlflow}


def _score(run: _Run) -> None:
    """Prove a variant, bind the output to it and stream; an output that holds rows already keeps the variant it has.

    A variant that was proved here may still not load on a replica: then the next one takes over, as long as nothing is
    committed, so that no output mixes two. Of two that score together nobody knows which did not load: that ends it.
    """
    run.output.forget_attempts()
    found = _resume(run)
    left = np.setdiff1d(np.arange(max(len(run.planned.plan.fragments), 1)), found.fragments)
    if run.planned.plan.rows == 0:
        return _complete(run, left, partial(_commit_nothing, run))
    bench = Workbench(run.planned.config, run.planned.model, run.planned.plan.fragments, run.say)
    failed: list[tuple[str, str]] = []
    error: LoadError | None = None
    for candidate in candidates(bench, only=run.output.bound_variant()):
        second = beside(bench, candidate, only=run.output.bound_beside())
        prepared = replace(candidate, others=(*failed, *candidate.others), beside=second)
        run.summary.prepared = prepared
        _announce(prepared, dict(failed), run)
        run.output.bind_variant(prepared.identity, found)
        run.output.require_artifacts([one.artifact.key for one in prepared.variants], found)
        try:
            return _complete(run, left, partial(_stream, prepared, run))
        except LoadError as caught:
            if run.tally.counted or run.output.committed() or (run.summary.placement and run.summary.placement.beside):
                raise
            error, run.summary.placement = caught, None
            failed.append((prepared.variant.name, f"a replica cannot load it: {error}"))
    raise error or AssertionError("there is a candidate, or none passed")


def _announce(prepared: Prepared, failed: dict[str, str], run: _Run) -> None:
    config = run.planned.config
    for line in prepared.warnings:
        run.recorder.warn(line)
    for name, reason in prepared.others:
        if config.variant == AUTO and name not in failed:
            run.say(f"not {name}: {reason}")
        else:
            run.recorder.warn(f"{name} does not score: {reason}")
    for name, reason in prepared.beside.others if prepared.beside else ():
        run.say(f"not {name} on CPUs: {reason}")
    if config.placement.cpu_variant and not prepared.beside:
        run.recorder.warn(
            f"placement.cpu_variant is left out: {prepared.variant.name} runs on the CPUs of all nodes itself"
        )
    run.summary.mark("prepare")
    run.recorder.event("selection", chosen=prepared.variant.name, others=dict(prepared.others))


def _resume(run: _Run) -> Committed:
    """Count what is committed: a listing decides. What is damaged is removed, and is scored again."""
    found, total = run.output.resume(run.accounts, run.planned.plan), len(run.planned.plan.fragments)
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
    if gone := run.output.put_back_state():
        run.recorder.warn(f"{', '.join(gone)} was removed or changed during the run, and is put back")
        run.lock.renew()
        run.accounts.write_again()
    found, plan = run.output.compare(run.accounts, run.planned.plan), run.planned.plan
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
        run.output.forget_attempts()
    return found.lost, few(found.reasons)


def _commit_nothing(run: _Run, _: np.ndarray[Any, Any]) -> None:
    """Leave an output with a schema where the table is empty."""
    record = run.output.commit_empty(run.planned.plan, run.planned.fingerprint, run.planned.schema)
    run.accounts.add("", 0, 0, 0, 0, bytes=record["bytes"], sha256=record["sha256"])


def _stream(prepared: Prepared, run: _Run, left: np.ndarray[Any, Any]) -> None:
    """Place the replicas and count their receipts as fragments are committed."""
    if not len(left):
        return run.recorder.params(prepared.params)
    run.ray.open()
    # While Ray starts: importing Ray Data takes nearly as long.
    from optinfer.execution.pipeline import Todo, stream

    config, tally = run.planned.config, run.tally
    run.ray.ready()
    run.summary.mark("ray")
    # What is scored again has the place of the replicas that have just ended, which Ray may still count as taken.
    placement = run.summary.placement = run.summary.placement or placed(
        run.planned, prepared, prepared.variant.device, run.ray.free(), len(left), run.ray.growing
    )
    for one, part in zip(prepared.variants, placement.parts, strict=False):
        run.say(f"scoring with {one.variant.name}: {'; '.join(part.reasons)}")
    task, todo = _task(prepared, placement, run), Todo(run.planned.plan, left)
    progressing = Progress(run.planned.plan.rows, tally.total.rows_in)
    # Closed also where a receipt ends the job: whoever keeps that error would keep the replicas scoring.
    with progressing as progress, closing(stream(task, placement, todo)) as receipts:
        for count, receipt in enumerate(receipts):
            if count == 0:  # not before: until a replica has loaded it, another variant may take its place
                params = {f"placement.{name}": value for name, value in placement.params.items()}
                run.recorder.params({**prepared.params, **params})
            run.recorder.event("receipt", **{**asdict(receipt), "stats": receipt.stats.as_dict()})
            counts = (receipt.stats.rows_in, receipt.stats.rows_out, receipt.stats.rows_quarantined)
            run.accounts.add(receipt.artifact, receipt.fragment, *counts, variant=receipt.variant, **receipt.files)
            tally.rows_by_variant[receipt.variant] += receipt.stats.rows_out
            tally.add(receipt.fragment, receipt.stats, receipt.reasons, receipt.committed, receipt.replica)
            tally.replica_peak_rss_mb = max(tally.replica_peak_rss_mb, receipt.peak_rss_mb)
            tally.replicas.setdefault(receipt.replica, receipt.load_started + receipt.load_seconds)
            tally.first_load = tally.first_load or (receipt.load_started, receipt.load_seconds)
            progress.advance(receipt.stats.rows_in, receipt.stats.rows_quarantined)
            tally.check_threshold(f"{redact(config.sink.path)}/_quarantine")


def _task(prepared: Prepared, placement: Placement, run: _Run) -> Any:
    from optinfer.execution.scorer import ScoringTask

    config, second = run.planned.config, prepared.beside
    threads = [part.threads_per_replica for part in placement.parts]
    return ScoringTask(
        settings=replace(prepared.settings, threads=threads[0]),
        beside=replace(second.settings, threads=threads[-1]) if second else None,
        columns=config.source.columns,
        columns_read=config.source.columns_read,
        carried=run.planned.carried,
        output_url=config.sink.path,
        fingerprint=run.planned.fingerprint,
        on_error=config.sink.on_error,
        on_bad_file=config.source.on_bad_file,
    )
