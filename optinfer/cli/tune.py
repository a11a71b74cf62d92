"""`optinfer tune`: the fastest settings of a node."""

from __future__ import annotations

from datetime import date

import click

from optinfer.cli import options
from optinfer.cli.printing import answer, say


@click.command()
@options.job
@options.changes
@options.logical_date
@options.as_json
def tune(job: str, overrides: tuple[str, ...], logical_date: date | None, as_json: bool) -> None:
    """Search variant, micro-batches, replicas and threads for the fastest on this node; later runs use what won."""
    from optinfer.commands.tune import tune as tune_job
    from optinfer.job_file import load_job
    from optinfer.records.text import tune_text

    answer(tune_job(load_job(job, overrides, logical_date), say), as_json, tune_text)
