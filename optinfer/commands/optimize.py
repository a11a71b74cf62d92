"""optimize(config): every variant of a job's model built, measured on the job's own rows, compared; the best one named.

It is what `variant: auto` does before it scores, made visible: the same builds, certificates and verdicts, taken from
the cache where nothing changed, so a run that was cut off goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from optinfer.commands.optimize_answer import answer, below, compared, finished
from optinfer.commands.readiness import journal_copies, require_places
from optinfer.commands.resolved import resolve
from optinfer.commands.tracked import command_begun
from optinfer.config import AUTO, JobConfig, TrackingConfig
from optinfer.errors import ConfigError
from optinfer.execution.executor import Executor
from optinfer.optimization.proving import Here, Prover
from optinfer.optimization.selection import Prepared, Skipped
from optinfer.optimization.variants import catalog, get
from optinfer.records.comparison import OptimizeRecord, Registered
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
        recorder.event(command_begun(job, run_id, "optimize", "compares the variants of its model on sample rows", {}))
        proving = replace(job.proving, again=again)
        bench = proving.bench(say)
        prover = executor.prover(proving, say) if executor else Here(bench)
        results = list(_measured(prover, names, recorder, say))
        record = replace(answer(job, run_id, bench.sample.gate.num_rows, results), journal=str(recorder.journal.path))
        place = Path(plot) if plot else recorder.folder / "pareto.png"
        images = drawn(draw, record, place, say) if record.candidates else []
        record = replace(record, plot=str(images[0]) if images else None)
        record = replace(record, mlflow=recorder.finish(finished(record), images))
    if register is None:
        return record
    rows = bench.sample.roles(bench.sample.gate).slice(0, _EXAMPLE_ROWS)
    return replace(record, registered=_registered(register, record, results, rows, config.tracking, say))


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
        recorder.event(compared(result))
        if isinstance(result, Prepared):
            say(f"{result.variant.name}: {result.certificate.rows_per_second:.1f} rows/s, {_verdict(result)}")
            recorder.event(below(result))
        else:
            say(f"{result.name}: {result.reason}")
        yield result


def _verdict(result: Prepared) -> str:
    return "passes" if result.gate.passed else result.gate.reason


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
