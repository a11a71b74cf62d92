"""`optinfer sync`: journals brought to an MLflow that was away."""

from __future__ import annotations

import sys

import click

from optinfer.cli import options
from optinfer.cli.printing import answer, say


@click.command()
@click.argument("target", metavar="[JOURNAL|OUTPUT|JOB.yaml]", required=False)
@click.option("--all", "everything", is_flag=True, help="All journals of this machine.")
@click.option("--uri", help="The MLflow to bring them to; default: the one that the journal names.")
@click.option("--experiment", help="The experiment there; default: the one that the journal names.")
@options.as_json
def sync(target: str | None, everything: bool, uri: str | None, experiment: str | None, as_json: bool) -> None:
    """Bring to MLflow what it lacks of runs whose journals have it; twice changes nothing."""
    if everything == bool(target):
        raise click.UsageError("give a journal, an output or a job file, or --all")
    from optinfer.commands.sync import Where
    from optinfer.commands.sync import sync as sync_journals
    from optinfer.records.text import sync_text
    from optinfer.system.outages import reaching

    with reaching(target or "the home folder"):
        record = sync_journals(target, Where(uri, experiment))
    answer(record, as_json, sync_text)
    if record.failed:
        say(f"{record.failed} of {len(record.runs)} journals are not in MLflow")
        sys.exit(1)
