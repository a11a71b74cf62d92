"""`optinfer status`: how far an output is."""

from __future__ import annotations

import sys
from datetime import date

import click

from optinfer.cli import options
from optinfer.cli.printing import answer, say
from optinfer.errors import INTERRUPTED


@click.command()
@click.argument("target", metavar="JOB.yaml|OUTPUT")
@options.logical_date
@options.as_json
@click.option("--follow", is_flag=True, help="Say how far it is until the run ends; exit as the run does.")
@click.option(
    "--every", type=click.FloatRange(min=0.1), default=5.0, show_default=True, help="Seconds between two looks."
)
def status(target: str, logical_date: date | None, as_json: bool, follow: bool, every: float) -> None:
    """Show how far the job that writes an output is."""
    from optinfer.commands.asked_for import target as named
    from optinfer.commands.follow import follow as follow_run
    from optinfer.commands.status import status as status_of
    from optinfer.records.text import status_text
    from optinfer.system.outages import reaching

    output, code = named(target, logical_date).url, 0
    if follow:
        try:
            end = follow_run(output, say, every)
        except KeyboardInterrupt:
            say("stopped following; the run goes on")
            sys.exit(INTERRUPTED)
        say(end.message)
        code = end.exit_code
    with reaching(output):
        record = status_of(output)
    answer(record, as_json, status_text)
    if code:
        sys.exit(code)
