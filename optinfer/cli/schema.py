"""`optinfer schema`: what a job file may say."""

from __future__ import annotations

import json

import click

from optinfer.cli.printing import out


@click.command()
def schema() -> None:
    """Print the JSON Schema of a job file, with which an editor completes and checks keys."""
    from optinfer.job_file import job_schema

    out(json.dumps(job_schema(), indent=1))
