"""run(config): the whole path of a record on one screen. Plan, prepare, place, stream, commit, account, record.

plan      list the source, cut it into fragments, compute the fingerprint     planning.py, data/
prepare   build, certify and gate the variant on a sample of the job's rows   optimization/
place     replicas and their share of the cluster; refuse what cannot run     execution/placement
stream    Ray Data actors read, score and commit one fragment after another   execution/pipeline
account   rows in = rows scored + rows quarantined, manifest, then _SUCCESS   tracking/tally, data/output
record    journal first, MLflow from it                                       tracking/
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from optinfer import home
from optinfer.config import AUTO, JobConfig
from optinfer.data.fragments import Fragment
from optinfer.data.lock import RunLock
from optinfer.data.output import Output
from optinfer.data.storage import reaching
from optinfer.errors import LoadError, redact
from optinfer.execution.placement import Placement, place
from optinfer.optimization.prepare import Workbench
from optinfer.optimization.selection import Prepared, candidates
from optinfer.planning import Planned, plan_job
from optinfer.summary import Summary
from optinfer.tracking.mlflow_tracker import MlflowTracker
from optinfer.tracking.recorder import Recorder
from optinfer.tracking.report import Progress
from optinfer.tracking.tally import Tally


def _silent(line: str) -> None:
    pass


def run(config: JobConfig, address: str | None = None, say: Callable[[str], None] = _silent) -> dict[str, Any]:
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
    if done:
        if done["job"].get("gate") != config.gate.model_dump(mode="json"):
            say("warning: this output was finished under another gate; to score under this one, choose a new sink.path")
        return summary.nothing_to_do(done["run"])
    with RunLock(output.folder):
        output.freeze({"fingerprint": planned.fingerprint, "fields": planned.fields}, planned.plan)
        tracker = MlflowTracker(config.tracking.uri or home.default_tracking_uri(), config.tracking.experiment)
        with Recorder(home.runs() / summary.run_id, tracker, time.time, say) as recorder:
            recorder.event("start", run_name=f"{config.name} {config.variant}", **summary.start(planned))
            for path, reason in planned.plan.bad_files:
                recorder.warn(f"{redact(path)} is left out: {reason}")
            tally = Tally(planned.plan.rows, config.sink.error_threshold)
            if planned.plan.rows == 0:
                output.commit_empty(planned.plan, planned.fingerprint, planned.schema)
            else:
                output.forget_attempts()
                _score(planned, output, tally, summary, recorder, address, say)
            tally.check_threshold(f"{output.shown}/_quarantine")
            tally.check_complete(output.shown)
            manifest = summary.manifest(planned, tally, recorder)
            output.finish(manifest)
            mlflow = recorder.finish("done", **summary.finish(planned, tally, manifest))
    return {**manifest["run"], "mlflow": mlflow}


def _score(
    planned: Planned,
    output: Output,
    tally: Tally,
    summary: Summary,
    recorder: Recorder,
    address: str | None,
    say: Callable[[str], None],
) -> None:
    """Prove a variant, bind the output to it and stream; an output that holds rows already keeps the variant it has.

    A variant that was proved here may still not load on a replica: then the next one takes over, as long as nothing is
    committed, so that no output mixes two.
    """
    bench = Workbench(planned.config, planned.model, planned.plan.fragments, say)
    failed: list[tuple[str, str]] = []
    error: LoadError | None = None
    for candidate in candidates(bench, only=output.bound_variant()):
        prepared = summary.prepared = replace(candidate, others=(*failed, *candidate.others))
        _announce(prepared, planned.config, dict(failed), recorder, say)
        output.bind_variant(prepared.identity)
        todo = _resume(planned, prepared, output, tally, say)
        try:
            return _stream(planned, prepared, todo, tally, summary, recorder, address, say)
        except LoadError as caught:
            if output.committed():
                raise
            error = caught
            failed.append((prepared.variant.name, f"a replica cannot load it: {error}"))
    raise error or AssertionError("there is a candidate, or none passed")


def _announce(
    prepared: Prepared, config: JobConfig, failed: dict[str, str], recorder: Recorder, say: Callable[[str], None]
) -> None:
    for line in prepared.warnings:
        recorder.warn(line)
    for name, reason in prepared.others:
        if config.variant == AUTO and name not in failed:
            say(f"not {name}: {reason}")
        else:
            recorder.warn(f"{name} does not score: {reason}")
    recorder.event("selection", chosen=prepared.variant.name, others=dict(prepared.others))


def _resume(
    planned: Planned, prepared: Prepared, output: Output, tally: Tally, say: Callable[[str], None]
) -> list[tuple[Fragment, str]]:
    """Count what is committed and return what is not: a listing decides."""
    committed = output.committed()
    named = [(fragment, planned.plan.part_name(fragment.index)) for fragment in planned.plan.fragments]
    footers = output.footers(part for _, part in named if part in committed)
    output.require_artifact(prepared.artifact.key, footers)
    tally.take_over(footers)
    if committed:
        say(f"resuming: {len(committed)} of {len(named)} fragments are committed")
    return [(fragment, part) for fragment, part in named if part not in committed]


def _stream(
    planned: Planned,
    prepared: Prepared,
    todo: list[tuple[Fragment, str]],
    tally: Tally,
    summary: Summary,
    recorder: Recorder,
    address: str | None,
    say: Callable[[str], None],
) -> None:
    """Place the replicas and count their receipts as fragments are committed."""
    if not todo:
        return recorder.params(prepared.params)
    from optinfer.execution.cluster import connected, free_nodes
    from optinfer.execution.pipeline import stream
    from optinfer.execution.scorer import ScoringTask

    config = planned.config
    with connected(address):
        placement: Placement = place(config.placement, prepared.variant.device, free_nodes(), len(todo))
        summary.placement = placement
        tally.warm_up = placement.replicas
        say(f"scoring with {prepared.variant.name}: {'; '.join(placement.reasons)}")
        task = ScoringTask(
            settings=replace(prepared.settings, threads=placement.threads_per_replica),
            columns=config.source.columns,
            columns_read=config.source.columns_read,
            carried=planned.carried,
            output_url=config.sink.path,
            fingerprint=planned.fingerprint,
            on_error=config.sink.on_error,
            on_bad_file=config.source.on_bad_file,
        )
        with Progress(planned.plan.rows, tally.resumed.rows_in) as progress:
            for count, receipt in enumerate(stream(task, placement, todo)):
                if count == 0:  # not before: until a replica has loaded it, another variant may take its place
                    placed = {f"placement.{k}": v for k, v in placement.as_dict().items()}
                    recorder.params({**prepared.params, **placed})
                event = recorder.event("receipt", **{**asdict(receipt), "stats": receipt.stats.as_dict()})
                tally.add(receipt.fragment, receipt.stats, receipt.reasons, event["time"])
                tally.replica_peak_rss_mb = max(tally.replica_peak_rss_mb, receipt.peak_rss_mb)
                progress.advance(receipt.stats.rows_in, receipt.stats.rows_quarantined)
                tally.check_threshold(f"{redact(config.sink.path)}/_quarantine")
