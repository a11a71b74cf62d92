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
@options.address
@click.option("--variants", "names", metavar="A,B,...", help="Try only these; default: all that fit.")
@click.option("--register", metavar="NAME", help="Log the winner as this MLflow model; any pyfunc client can load it.")
@click.option("--plot", metavar="FILE.png", help="Where the plot goes; default: beside the journal.")
@click.option("--again", is_flag=True, help="Measure anew what was measured before; what was built is kept.")
def optimize(
    job: str,
    overrides: tuple[str, ...],
    logical_date: date | None,
    as_json: bool,
    address: str | None,
    again: bool,
    **given: str | None,
) -> None:
    """Build, measure and compare the variants of a job's model on the job's own rows; score nothing.

    On this machine; with --address on a node of the cluster of the kind that would score.
    """
    from optinfer.commands.optimize import optimize as optimize_job
    from optinfer.execution.on_ray import OnRay
    from optinfer.job_file import load_job
    from optinfer.records.text import optimize_text

    names = given["names"]
    wanted = None if names is None else [name.strip() for name in names.split(",") if name.strip()]
    executor = None if address is None else OnRay(address)
    config = load_job(job, overrides, logical_date)
    record = optimize_job(config, wanted, given["register"], given["plot"], say, executor, again)
    answer(record, as_json, optimize_text)
    if record.winner is None:
        sys.exit(NoVariantError.exit_code)
