"""`optinfer promote`: a registry's alias moves to the challenger where the job's rule holds."""

from __future__ import annotations

import sys
from datetime import date
from typing import TYPE_CHECKING, Any

import click

from optinfer.cli import options
from optinfer.cli.printing import answer, say
from optinfer.errors import ConfigError, NoVariantError

if TYPE_CHECKING:
    from optinfer.config import JobConfig
    from optinfer.records.promotion import PromoteRecord


@click.command()
@options.job
@options.changes
@options.logical_date
@options.as_json
@click.option("--challenger", metavar="MODEL", help="Compare with this version of the model first: models:/NAME@ALIAS.")
@click.option(
    "--compared",
    metavar="FILE|runs:/ID",
    help="Or decide by a comparison that was made: what `compare --json` printed, or its MLflow run.",
)
@click.option("--rollback", is_flag=True, help="Or move the alias back to where the last promotion moved it from.")
@click.option("--by", multiple=True, metavar="COLUMN", help="With --challenger: look at this column's values, too.")
@click.option(
    "--rows", type=click.IntRange(2), default=2000, show_default=True, help="With --challenger: rows to compare on."
)
@click.option("--all", "everything", is_flag=True, help="With --challenger: compare on all rows.")
@click.option("--dry-run", is_flag=True, help="Decide, and move nothing.")
def promote(job: str, overrides: tuple[str, ...], logical_date: date | None, as_json: bool, **given: Any) -> None:
    """Move an alias of the job's registered model to a challenger where the rule in promote.when holds.

    Exit 4: it does not hold, nothing is moved. Exit 5: somebody else moved the alias meanwhile.
    """
    from optinfer.job_file import load_job
    from optinfer.records.promotion_text import promote_text

    if sum(bool(given[name]) for name in ("challenger", "compared", "rollback")) != 1:
        raise ConfigError("name one of --challenger, --compared and --rollback")
    if (given["by"] or given["everything"]) and not given["challenger"]:
        raise ConfigError("--by and --all say what is compared, and nothing is without --challenger; leave them out")
    record = _decided(load_job(job, overrides, logical_date), given)
    answer(record, as_json, promote_text)
    if record.status == "refused":
        sys.exit(NoVariantError.exit_code)


def _decided(config: JobConfig, given: dict[str, Any]) -> PromoteRecord:
    from optinfer.commands import promote as command

    if given["rollback"]:
        return command.roll_back(config, given["dry_run"])
    if given["compared"]:
        found = command.read_comparison(given["compared"], config)
        return command.promote_compared(config, found, given["dry_run"])
    rows = None if given["everything"] else given["rows"]
    return command.promote(config, given["challenger"], given["by"], rows, given["dry_run"], say)
