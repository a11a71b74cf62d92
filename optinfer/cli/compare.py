"""`optinfer compare`: a job's variant and a challenger on the same rows."""

from __future__ import annotations

from datetime import date
from typing import Any

import click

from optinfer.cli import options
from optinfer.cli.printing import answer, say


@click.command()
@options.job
@options.changes
@options.logical_date
@options.as_json
@click.option(
    "--challenger",
    required=True,
    metavar="VARIANT|MODEL",
    help="A variant of the job's model, or another model: a path, models:/NAME@ALIAS.",
)
@click.option("--by", multiple=True, metavar="COLUMN", help="Look at the rows by this column's values, too.")
@click.option(
    "--margin",
    type=click.FloatRange(0, max_open=True),
    default=0.01,
    show_default=True,
    help="A loss up to this is none; in the metric's own units.",
)
@click.option(
    "--rows", type=click.IntRange(2), default=2000, show_default=True, help="Rows of the table to compare on."
)
@click.option("--all", "everything", is_flag=True, help="Compare on all rows.")
def compare(job: str, overrides: tuple[str, ...], logical_date: date | None, as_json: bool, **given: Any) -> None:
    """Score the same rows with a job's variant and a challenger, and decide; nothing is written to the sink.

    With a label column (gate.label): better, not worse, worse, or how many more rows would tell. Without one: how far
    the two agree, which is no quality.
    """
    from optinfer.commands.compare import compare as compare_job
    from optinfer.job_file import load_job
    from optinfer.records.decision_text import compare_text

    config = load_job(job, overrides, logical_date)
    rows = None if given["everything"] else given["rows"]
    answer(compare_job(config, given["challenger"], given["by"], given["margin"], rows, say), as_json, compare_text)
