"""`optinfer optimize`: every variant measured."""

from __future__ import annotations

import sys
from datetime import date

import click

from optinfer.cli import options
from optinfer.cli.printing import answer, say
from optinfer.errors import NoVariantError


@click.command()
@options.job
@options.changes
@options.logical_date
@options.as_json
@click.option("--variants", "names", metavar="A,B,...", help="Try only these; default: all that fit.")
@click.option("--register", metavar="NAME", help="Log the winner as this MLflow model; any pyfunc client can load it.")
@click.option("--plot", metavar="FILE.png", help="Where the plot goes; default: beside the journal.")
def optimize(
    job: str,
    overrides: tuple[str, ...],
    logical_date: date | None,
    as_json: bool,
    names: str | None,
    register: str | None,
    plot: str | None,
) -> None:
    """Build, measure and compare the variants of a job's model on the job's own rows; score nothing."""
    from optinfer.commands.optimize import optimize as optimize_job
    from optinfer.job_file import load_job
    from optinfer.records.text import optimize_text

    wanted = None if names is None else [name.strip() for name in names.split(",") if name.strip()]
    record = optimize_job(load_job(job, overrides, logical_date), wanted, register, plot, say)
    answer(record, as_json, optimize_text)
    if record.winner is None:
        sys.exit(NoVariantError.exit_code)
