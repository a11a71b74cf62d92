"""`optinfer retry-quarantine`: the rows that could not be scored, once more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING

import click

from optinfer.cli import options
from optinfer.cli.printing import answer, say

if TYPE_CHECKING:
    from optinfer.execution.executor import Executor


@click.command("retry-quarantine")
@click.argument("target", metavar="JOB.yaml|OUTPUT")
@options.logical_date
@options.address
@options.as_json
@click.pass_obj
def retry_quarantine(
    executor: Callable[[str | None], Executor] | None,
    target: str,
    logical_date: date | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Score the quarantined rows of an output again, into the same output."""
    from optinfer.commands.retry_quarantine import retry_quarantine as retry
    from optinfer.records.text import run_text

    answer(retry(target, logical_date, address, say, executor(address) if executor else None), as_json, run_text)
