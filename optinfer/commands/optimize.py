"""optimize(config): every variant of a job's model built, measured on the job's own rows, compared; the best one named.

It is what `variant: auto` does before it scores, made visible: the same builds, certificates and verdicts, taken from
the cache where nothing changed, so a run that was cut off goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from optinfer.commands.readiness import journal_copies, require_places
from optinfer.commands.resolved import Resolved, resolve
from optinfer.config import AUTO, JobConfig, TrackingConfig
from optinfer.errors import ConfigError
from optinfer.execution.executor import Executor
from optinfer.optimization.proving import Here, Prover
from optinfer.optimization.selection import Prepared, Skipped
from optinfer.optimization.variants import BASELINES, catalog, get
from optinfer.records.comparison import Candidate, OptimizeRecord, Registered, Unmeasured
from optinfer.records.notes import begun, optimize_note, variant_note
from optinfer.records.text import optimize_table
from optinfer.tracking import metrics, origin
from optinfer.tracking.events import Compared, Finished, Started
from optinfer.tracking.measured import of_comparison, of_variant
from optinfer.tracking.mlflow_run import run_name
from optinfer.tracking.mlflow_store import RUN_ID
from optinfer.tracking.plot import draw, drawn, require_drawable
from optinfer.tracking.recorder import Recorder, new_run_id, recorder_of

# MLflow's own rule.
_NOT_IN_MODEL_NAMES = frozenset("/:")
_EXAMPLE_ROWS = 8


def optimize(
    config: JobConfig,
    names: Sequence[str] | None = None,
    register: str | None = None,
    plot: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    executor: Executor | None = None,
    again: bool = False,
) -> OptimizeRecord:
    """Compare variants on a sample of the job's rows and return the record that `optinfer optimize --json` prints.

    Args:
        config: the job; nothing is scored or written to its sink, and its `variant` plays no part.
        names: variants to try; None tries all that fit.
        register: name under which the winner becomes an MLflow model.
        plot: where the PNG goes; None puts it beside the journal.
        say: is told, line by line, what is going on.
        executor: variants are measured on a node of its kind that would score; None measures this machine.
        again: measure anew what was measured before: on a machine that was busy then, say.

    Raises:
        ConfigError: the job cannot work, or a name is no variant.
    """
    _require_arguments(config, names, register, plot)
    job = resolve(config.model_copy(update={"variant": AUTO}))
    if job.plan.rows == 0:
        raise ConfigError("optimize measures on the job's rows, and its table has none; give one with rows")
    require_places()
    run_id = new_run_id()
    copies = journal_copies(run_id)
    with executor or nullcontext(), recorder_of(config.tracking, run_id, say, copies) as recorder:
        recorder.event(_started(job, run_id))
        proving = replace(job.proving, again=again)
        bench = proving.bench(say)
        prover = executor.prover(proving, say) if executor else Here(bench)
        results = list(_measured(prover, names, recorder, say))
        record = replace(_record(job, run_id, bench.sample.gate.num_rows, results), journal=str(recorder.journal.path))
        place = Path(plot) if plot else recorder.folder / "pareto.png"
        images = drawn(draw, record, place, say) if record.candidates else []
        record = replace(record, plot=str(images[0]) if images else None)
        record = replace(record, mlflow=recorder.finish(_finished(record), images))
    if register is None:
        return record
    rows = bench.sample.roles(bench.sample.gate).slice(0, _EXAMPLE_ROWS)
    return replace(record, registered=_registered(register, record, results, rows, config.tracking, say))


def _started(job: Resolved, run_id: str) -> Started:
    config = job.config
    return Started(
        run_name=run_name(job.params, "optimize"),
        params=job.params,
        tags={RUN_ID: run_id, **origin.tags()},
        note=begun(config.name, "compares the variants of its model on a sample of its rows"),
        model_id=job.model_id,
    )


def _require_arguments(config: JobConfig, names: Sequence[str] | None, register: str | None, plot: str | None) -> None:
    """Refuse before anything is measured what would fail when all is."""
    known = catalog(config)
    for name in names or ():
        get(name, known)
    if names is not None and not names:
        raise ConfigError("--variants names none; leave it out to try all that fit")
    if register is not None and (not register.strip() or set(register) & _NOT_IN_MODEL_NAMES):
        raise ConfigError(f"--register {register!r}: MLflow's model names are not empty and hold no '/' or ':'")
    if plot is not None:
        require_drawable(Path(plot))


def _measured(
    prover: Prover,
    names: Sequence[str] | None,
    recorder: Recorder,
    say: Callable[[str], None],
) -> Iterator[Prepared | Skipped]:
    """Prove the variants, and record each as soon as it is measured."""
    for result in prover.everything(names):
        recorder.event(Compared(_candidate(result) if isinstance(result, Prepared) else _unmeasured(result)))
        if isinstance(result, Prepared):
            say(f"{result.variant.name}: {result.certificate.rows_per_second:.1f} rows/s, {_verdict(result)}")
            note, found = variant_note(result.certificate, result.gate), of_variant(result.certificate, result.gate)
            recorder.child(result.variant.name, result.params, metrics.named(found), _certificate(result), note)
        else:
            say(f"{result.name}: {result.reason}")
        yield result


def _record(job: Resolved, run_id: str, sample_rows: int, results: list[Prepared | Skipped]) -> OptimizeRecord:
    baseline = BASELINES[job.subject.model.format]
    measured = [r for r in results if isinstance(r, Prepared)]
    passed = sorted((r for r in measured if r.gate.passed), key=lambda r: -r.certificate.rows_per_second)
    failed = sorted((r for r in measured if not r.gate.passed), key=lambda r: -r.certificate.rows_per_second)
    skipped = [r for r in results if isinstance(r, Skipped)]
    base = next((r.certificate.rows_per_second for r in measured if r.variant.name == baseline), None)
    return OptimizeRecord(
        run_id=run_id,
        job=job.config.name,
        model=job.subject.model.key,
        family=job.config.model.family,
        metric=job.subject.metric,
        label=job.config.gate.label,
        threshold=job.config.gate.threshold,
        relative=job.config.gate.largest_drop is not None,
        sample_rows=sample_rows,
        baseline=baseline,
        winner=passed[0].variant.name if passed else None,
        pareto=pareto(
            # Differences of rounding are none: beside the baseline nothing else would ever be on the front.
            [(r.variant.name, r.certificate.rows_per_second, round(r.certificate.fidelity.value, 5)) for r in passed]
        ),
        candidates=tuple(_candidate(r, base) for r in (*passed, *failed)),
        skipped={r.name: r.reason for r in skipped},
    )


def pareto(points: Sequence[tuple[str, float, float]]) -> tuple[str, ...]:
    """Return the names of the (name, speed, quality) points that no other point beats in both."""
    front = []
    for name, speed, quality in points:
        beaten = any(
            s >= speed and q >= quality and (s > speed or q > quality) for other, s, q in points if other != name
        )
        if not beaten:
            front.append(name)
    return tuple(front)


def _candidate(result: Prepared, base: float | None = None) -> Candidate:
    """Return what is said of a measured variant; `base` is the baseline's rows per second."""
    return Candidate(
        variant=result.variant.name,
        passed=result.gate.passed,
        reason=result.gate.reason,
        techniques=result.variant.techniques,
        backend=result.variant.backend,
        gate=result.gate,
        certificate=result.certificate,
        speedup=result.certificate.rows_per_second / base if base else None,
    )


def _unmeasured(result: Skipped) -> Unmeasured:
    return Unmeasured(variant=result.name, reason=result.reason)


def _verdict(result: Prepared) -> str:
    return "passes" if result.gate.passed else result.gate.reason


def _certificate(result: Prepared) -> dict[str, str]:
    return {"certificate.json": json.dumps(result.certificate.as_dict(), indent=1)}


def _finished(record: OptimizeRecord) -> Finished:
    return Finished(
        metrics=metrics.named(of_comparison(record)),
        note=optimize_note(record),
        tags={"optinfer.winner": str(record.winner), "optinfer.pareto": ", ".join(record.pareto)},
        artifacts={
            "table.md": optimize_table(record),
            "record.json": json.dumps(record.as_dict(), indent=1, default=str),
        },
    )


def _registered(
    name: str,
    record: OptimizeRecord,
    results: list[Prepared | Skipped],
    rows: pa.Table,
    tracking: TrackingConfig,
    say: Callable[[str], None],
) -> Registered | None:
    from optinfer.registry.registration import register_if_possible

    winner = next((r for r in results if isinstance(r, Prepared) and r.variant.name == record.winner), None)
    if winner is None:
        say(f"nothing is registered as {name}: no variant passes the gate")
        return None
    say(f"registering {winner.variant.name} as {name}")
    found = register_if_possible(name, winner, rows, tracking)
    if found.error:
        say(f"warning: {winner.variant.name} is not registered as {name}: {found.error}")
    return found
