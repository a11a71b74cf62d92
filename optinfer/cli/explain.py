"""`optinfer explain`: rows of a finished output, with all that made them."""

from __future__ import annotations

from datetime import date

import click

from optinfer.cli import options
from optinfer.cli.printing import answer, say
from optinfer.errors import ConfigError


@click.command()
@click.argument("target", metavar="JOB.yaml|OUTPUT")
@options.logical_date
@options.as_json
@click.option(
    "--where",
    multiple=True,
    required=True,
    metavar="COLUMN=VALUE",
    help="Rows whose column of the output has this value; given again: this one, too.",
)
@click.option("--most", type=click.IntRange(1), default=10, show_default=True, help="Rows that are shown.")
def explain(target: str, logical_date: date | None, as_json: bool, where: tuple[str, ...], most: int) -> None:
    """Show where rows of a finished output came from, what scored them, and what that answers today."""
    from optinfer.commands.asked_for import target as named
    from optinfer.commands.explain import explain as explain_rows
    from optinfer.records.inspection_text import explain_text

    wanted = {}
    for one in where:
        column, equals, value = one.partition("=")
        if not equals or not column:
            raise ConfigError(f"--where {one}: write it as COLUMN=VALUE")
        if column in wanted:
            raise ConfigError(f"--where {one}: {column} is given twice, and no row has two values in it")
        wanted[column] = value
    answer(explain_rows(named(target, logical_date).url, wanted, most, say), as_json, explain_text)
