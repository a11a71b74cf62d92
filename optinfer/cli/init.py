"""`optinfer init`: a job file, of what a table and a model say of themselves."""

from __future__ import annotations

import click

from optinfer.cli import options
from optinfer.cli.printing import answer


@click.command()
@click.option("--table", required=True, metavar="PATH", help="What is scored: Parquet file, folder or glob, or Delta.")
@click.option("--model", required=True, metavar="PATH", help="What scores it: all that `model.path` takes.")
@click.option("-o", "--output", default="job.yaml", show_default=True, metavar="JOB.yaml", help="The file; it is new.")
@options.changes
@options.as_json
def init(table: str, model: str, output: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Write a job that scores a table with a model; comments in it say why each key is as it is.

    What cannot be told is named with its candidates (exit 2): say it with --set, for example
    --set source.columns.text=body. Nothing is asked on a terminal, and nothing overwritten.
    """
    from optinfer.commands.init import init as write
    from optinfer.records.text import draft_text

    answer(write(table, model, output, overrides), as_json, draft_text)
