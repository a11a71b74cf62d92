"""Arguments and options that commands share."""

from __future__ import annotations

import contextlib
import re
from datetime import date
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from optinfer.execution.on_ray import OnRay


class _Day(click.ParamType["date"]):
    """A calendar day, written in the one way that paths have it."""

    name = "day"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> date:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", str(value)):
            with contextlib.suppress(ValueError):
                if (day := date.fromisoformat(str(value))) > date.min:  # which has no day before it
                    return day
        self.fail(f"{value!r} is no day; write it as 2026-11-25", param, ctx)


job = click.argument("job", metavar="JOB.yaml")
changes = click.option(
    "--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Change a value of the job, e.g. source.limit=1000."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
address = click.option(
    "--address",
    metavar="auto|local|HOST:PORT",
    help="Ray cluster; default: $RAY_ADDRESS, else Ray started here.",
)
logical_date = click.option(
    "--logical-date",
    type=_Day(),
    metavar="YYYY-MM-DD",
    help="The night that {date} and {previous} in the job's paths are of; default: today.",
)


def named_cluster(address: str | None) -> OnRay | None:
    """Return the cluster of this address, or of `RAY_ADDRESS`; None where Ray would be started here."""
    from optinfer.execution.on_ray import OnRay
    from optinfer.execution.reach import chosen

    return None if chosen(address)[0] is None else OnRay(address)
