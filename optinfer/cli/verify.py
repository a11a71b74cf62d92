"""`optinfer verify`: a sample of a finished output scored again, on today's machine."""

from __future__ import annotations

import sys
from datetime import date

import click

from optinfer.cli import options
from optinfer.cli.printing import answer, say
from optinfer.errors import OptinferError


@click.command()
@click.argument("target", metavar="JOB.yaml|OUTPUT")
@options.logical_date
@options.as_json
@click.option(
    "--rows",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="At least so many rows are scored again; whole fragments are.",
)
def verify(target: str, logical_date: date | None, as_json: bool, rows: int) -> None:
    """Score a sample of a finished output again: the same answers, or what moved them, and by how much.

    Exit 1: answers moved beyond the certificate's tolerance, or no row can be scored again.
    """
    from optinfer.commands.asked_for import target as named
    from optinfer.commands.verify import verify as verify_output
    from optinfer.records.inspection_text import verify_text

    record = verify_output(named(target, logical_date).url, rows, say)
    answer(record, as_json, verify_text)
    if record.status != "same":
        sys.exit(OptinferError.exit_code)
