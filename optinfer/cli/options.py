"""Arguments and options that commands share."""

from __future__ import annotations

import click

job = click.argument("job", metavar="JOB.yaml")
changes = click.option(
    "--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Change a value of the job, e.g. source.limit=1000."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
address = click.option(
    "--address",
    metavar="auto|local|HOST:PORT|ray://…",
    help="Ray cluster; default: $RAY_ADDRESS, else Ray started here.",
)
