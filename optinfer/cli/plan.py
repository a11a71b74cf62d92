"""`optinfer plan`: what `run` would do."""

from __future__ import annotations

from datetime import date

import click

from optinfer.cli import options
from optinfer.cli.printing import answer


@click.command()
@options.job
@options.changes
@options.logical_date
@options.as_json
def plan(job: str, overrides: tuple[str, ...], logical_date: date | None, as_json: bool) -> None:
    """Show what `run` would do on this machine; start nothing, write nothing to the sink."""
    from optinfer.commands.plan import plan as plan_of
    from optinfer.commands.resolved import resolve
    from optinfer.job_file import load_job
    from optinfer.records.text import plan_text
    from optinfer.system.outages import reaching

    config = load_job(job, overrides, logical_date)
    resolved = resolve(config)
    with reaching(config.sink.path):
        record = plan_of(resolved)
    answer(record, as_json, plan_text)
