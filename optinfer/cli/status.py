"""`optinfer status`: how far an output is."""

from __future__ import annotations

import click

from optinfer.cli import options
from optinfer.cli.printing import answer


@click.command()
@click.argument("output")
@options.as_json
def status(output: str, as_json: bool) -> None:
    """Show how far the job that writes OUTPUT is."""
    from optinfer.commands.status import status as status_of
    from optinfer.data.storage import reaching
    from optinfer.records.text import status_text

    with reaching(output):
        record = status_of(output)
    answer(record, as_json, status_text)
