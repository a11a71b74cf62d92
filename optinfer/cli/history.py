"""`optinfer history`: the runs of a job."""

from __future__ import annotations

import click

from optinfer.cli import options
from optinfer.cli.printing import answer


@click.command()
@click.argument("target", metavar="JOB.yaml|OUTPUT")
@options.as_json
@click.option("--last", type=click.IntRange(min=1), default=20, show_default=True, help="So many runs, newest first.")
def history(target: str, as_json: bool, last: int) -> None:
    """List the runs of a job: when, how they ended, how fast, and against their forecast."""
    from optinfer.commands.asked_for import target as named
    from optinfer.commands.history import history as history_of
    from optinfer.records.text import history_text
    from optinfer.system.outages import reaching

    asked = named(target)
    with reaching(asked.url):
        found = history_of(asked, last)
    answer(found, as_json, history_text)
