"""`optinfer run`: a job, to its end or on from where it was."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING

import click

from optinfer.cli import options
from optinfer.cli.printing import answer, say

if TYPE_CHECKING:
    from optinfer.execution.executor import Executor


@click.command()
@options.job
@options.changes
@options.logical_date
@options.address
@options.as_json
@click.pass_obj
def run(
    executor: Callable[[str | None], Executor] | None,
    job: str,
    overrides: tuple[str, ...],
    logical_date: date | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Run a job, or go on with it: what is committed is not scored again."""
    from optinfer.commands.run import run as run_job
    from optinfer.job_file import load_job
    from optinfer.records.text import run_text

    config = load_job(job, overrides, logical_date)
    answer(run_job(config, address, say, executor(address) if executor else None), as_json, run_text)
