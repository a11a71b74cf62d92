"""`optinfer outcomes`: what came of an experiment's arms."""

from __future__ import annotations

from typing import Any

import click

from optinfer.cli import options
from optinfer.cli.printing import answer, say


@click.command()
@click.argument("outputs", metavar="OUTPUT...", nargs=-1, required=True)
@click.argument("table", metavar="TABLE")
@click.option("--key", required=True, metavar="COLUMN", help="Of both: what tells one who was scored from another.")
@click.option("--outcome", required=True, metavar="COLUMN", help="Of TABLE: a number, or true and false.")
@click.option(
    "--margin",
    type=click.FloatRange(0, max_open=True),
    default=0.0,
    show_default=True,
    help="A loss up to this is none; in the outcome's own units.",
)
@click.option("--lower-is-better", is_flag=True, help="Of the outcome: churned, say.")
@click.option(
    "--planned",
    type=click.IntRange(100),
    default=10_000,
    show_default=True,
    help="Keys of two arms at which intervals are narrowest. The same at every look.",
)
@options.as_json
def outcomes(outputs: tuple[str, ...], table: str, as_json: bool, **given: Any) -> None:
    """Join what happened later to the rows that an experiment scored, and hold each arm against the control.

    OUTPUT is the sink.path of a night, or of several; TABLE has an outcome a key. The intervals hold however often one
    looks.
    """
    from optinfer.commands.outcomes import Measure
    from optinfer.commands.outcomes import outcomes as joined
    from optinfer.records.outcomes import outcomes_text

    answer(joined(outputs, table, Measure(**given), say), as_json, outcomes_text)
