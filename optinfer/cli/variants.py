"""`optinfer variants`: what may score."""

from __future__ import annotations

import click

from optinfer.cli import options
from optinfer.cli.printing import answer


@click.command()
@options.as_json
def variants(as_json: bool) -> None:
    """List the variants, and why one is not available here."""
    from optinfer.optimization.variants import listing
    from optinfer.records.text import variants_text

    answer(listing(), as_json, variants_text)
