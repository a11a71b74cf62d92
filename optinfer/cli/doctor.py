"""`optinfer doctor`: is this machine fit."""

from __future__ import annotations

import sys

import click

from optinfer.cli import options
from optinfer.cli.printing import answer


@click.command()
@options.address
@options.as_json
@click.option("--job", metavar="JOB.yaml", help="Also check this job's model, source, sink and tracking.")
def doctor(address: str | None, as_json: bool, job: str | None) -> None:
    """Check versions, CPU, GPUs, Ray, MLflow and storage: each line is ok or says the fix."""
    from optinfer.commands.doctor import examine
    from optinfer.job_file import load_job
    from optinfer.records.text import doctor_text

    checks = examine(address, load_job(job) if job else None)
    answer(checks, as_json, doctor_text)
    if not all(check.ok for check in checks):
        sys.exit(1)
