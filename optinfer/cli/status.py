"""`optinfer status`: how far an output is."""

from __future__ import annotations

from datetime import date

import click

from optinfer.cli import options
from optinfer.cli.printing import answer


@click.command()
@click.argument("output")
@options.logical_date
@options.as_json
def status(output: str, logical_date: date | None, as_json: bool) -> None:
    """Show how far the job that writes OUTPUT is."""
    from optinfer.commands.status import status as status_of
    from optinfer.data.storage import reaching
    from optinfer.records.text import status_text
    from optinfer.system import dates

    url = dates.argument(output, logical_date)
    with reaching(url):
        record = status_of(url)
    answer(record, as_json, status_text)
