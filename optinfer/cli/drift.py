"""`optinfer drift`: what moved in an output since its reference."""

from __future__ import annotations

import click

from optinfer.cli import options
from optinfer.cli.printing import answer


@click.command()
@click.argument("target", metavar="JOB.yaml|OUTPUT")
@options.as_json
@click.option("--reference", metavar="OUTPUT", help="Another output of the same model and columns to hold it against.")
@click.option("--accept", is_flag=True, help="Make this output the reference of its job from now on.")
def drift(target: str, as_json: bool, reference: str | None, accept: bool) -> None:
    """Say what moved in a finished output since the reference, how far, in which rows, and what to do."""
    from optinfer.commands.asked_for import target as named
    from optinfer.commands.drift import drift as drift_of
    from optinfer.records.drift import drift_text
    from optinfer.system.outages import reaching

    if accept and reference is not None:
        raise click.UsageError("--accept makes this output the reference, --reference names another; keep one")
    asked = named(target)
    with reaching(asked.url):
        found = drift_of(asked.url, reference, accept)
    answer(found, as_json, drift_text)
