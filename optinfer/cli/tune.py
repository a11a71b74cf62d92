"""`optinfer tune`: the fastest settings of a node."""

from __future__ import annotations

from datetime import date

import click

from optinfer.cli import options
from optinfer.cli.printing import answer, say


@click.command()
@options.job
@options.changes
@options.logical_date
@options.address
@options.as_json
def tune(job: str, overrides: tuple[str, ...], logical_date: date | None, address: str | None, as_json: bool) -> None:
    """Search variant, micro-batches, replicas and threads for the fastest of a node; later runs use what won.

    On this machine; with --address, or where RAY_ADDRESS names a cluster, on a node of it of the kind that would score.
    """
    from optinfer.commands.tune import tune as tune_job
    from optinfer.job_file import load_job
    from optinfer.records.text import tune_text

    config = load_job(job, overrides, logical_date)
    answer(tune_job(config, say, executor=options.named_cluster(address)), as_json, tune_text)
