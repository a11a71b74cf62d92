"""What Python programs and notebooks call: the commands, for jobs as they come to hand.

A job is a mapping with the keys of a job file, a `JobConfig`, or a job file's path. What a command answers is a frozen
record: its fields are what `--json` prints, `as_dict()` gives that, and a notebook shows it as a table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

from optinfer.config import JobConfig

if TYPE_CHECKING:
    from optinfer.execution.executor import Executor
    from optinfer.records.comparison import OptimizeRecord
    from optinfer.records.decision import CompareRecord
    from optinfer.records.preview import Preview
    from optinfer.records.run import RunRecord
    from optinfer.records.tuning import TuneRecord

Job = JobConfig | Mapping[str, object] | str | os.PathLike[str]
Say = Callable[[str], None]


def _silent(line: str) -> None:
    pass


def job_of(job: Job, logical_date: date | None = None) -> JobConfig:
    """Return a job, checked.

    Args:
        logical_date: the night that `{date}` in paths is of, where the job is no `JobConfig`; None is today.

    Raises:
        ConfigError: a key or a value is wrong; names it and what is valid.
    """
    from optinfer.job_file import load_job, parse_job

    if isinstance(job, JobConfig):
        return job
    if isinstance(job, Mapping):
        return parse_job(dict(job), logical_date=logical_date)
    return load_job(os.fspath(job), logical_date=logical_date)


def run(
    job: Job, address: str | None = None, say: Say = _silent, executor: Executor | None = None, retry: bool = False
) -> RunRecord:
    """Score the job's table, or go on with it, and say what was done.

    Args:
        job: a mapping, a `JobConfig` or a job file's path.
        address: None uses `RAY_ADDRESS` or starts Ray here; `local` always starts it; else a cluster's address.
        say: is told, line by line, what is going on; `print`, say.
        executor: where the replicas run; None takes Ray at `address`. `InProcess()` needs no Ray.
        retry: rows that were quarantined are tried again, also where the job is done; the others' answers stay.

    Raises:
        OptinferError: its class says why; committed fragments stay, and the same call goes on from them.
    """
    from optinfer.commands.run import run as run_job

    return run_job(job_of(job), address, say, executor, retry)


def plan(job: Job) -> Preview:
    """Say what `run` would do on this machine; start nothing, write nothing.

    Raises:
        OptinferError: the job cannot work; says what to change.
    """
    from optinfer.commands.plan import plan as plan_of
    from optinfer.commands.resolved import resolve

    return plan_of(resolve(job_of(job)))


def optimize(
    job: Job,
    names: Sequence[str] | None = None,
    register: str | None = None,
    plot: str | None = None,
    say: Say = _silent,
    executor: Executor | None = None,
    again: bool = False,
) -> OptimizeRecord:
    """Build and compare variants on a sample of the job's rows.

    Args:
        job: a mapping, a `JobConfig` or a job file's path; nothing is scored, and its `variant` plays no part.
        names: variants to try; None tries all that fit.
        register: name under which the winner becomes an MLflow model.
        plot: where a PNG goes; None puts it beside the journal.
        say: is told, line by line, what is going on.
        executor: where variants are proved; None is this machine.
        again: what was measured before counts for nothing.

    Raises:
        OptinferError: its class says why.
    """
    from optinfer.commands.optimize import optimize as optimize_job

    return optimize_job(job_of(job), names, register, plot, say, executor, again)


def compare(
    job: Job,
    challenger: str,
    by: Sequence[str] = (),
    margin: float = 0.01,
    rows: int | None = 2000,
    say: Say = _silent,
) -> CompareRecord:
    """Score the same rows with the job's variant and with a challenger on this machine, and decide.

    Args:
        job: a mapping, a `JobConfig` or a job file's path; nothing is written to its sink.
        challenger: a variant of the job's model, or another model: its path, or an address of MLflow's.
        by: source columns by whose values the rows are looked at apart, too.
        margin: a loss up to this is none, in the metric's own units.
        rows: how many are taken, evenly over the table; None takes all.
        say: is told, line by line, what is going on.

    Raises:
        OptinferError: its class says why.
    """
    from optinfer.commands.compare import compare as compare_job

    return compare_job(job_of(job), challenger, by, margin, rows, say)


def tune(job: Job, say: Say = _silent, executor: Executor | None = None) -> TuneRecord:
    """Search for the fastest settings of the job on a node, and keep them: later runs use them.

    Args:
        job: a mapping, a `JobConfig` or a job file's path.
        say: is told, line by line, what is going on.
        executor: a node of its kind that would score is searched; None is this machine.

    Raises:
        OptinferError: its class says why.
    """
    from optinfer.commands.tune import tune as search

    return search(job_of(job), say, executor=executor)
