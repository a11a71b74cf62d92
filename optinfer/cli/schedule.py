"""`optinfer schedule`: a job every night, started by something else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from optinfer.cli import options
from optinfer.cli.printing import answer, say

if TYPE_CHECKING:
    from optinfer.deployment.schedule import Rendered

_OF_TARGETS = (
    click.option(
        "--address", metavar="URL", help="Ray cluster each night is submitted to; default: run where it starts."
    ),
    click.option("--retries", type=click.IntRange(0, 20), help="How often a failed night is tried again; default: 2."),
    click.option("--image", metavar="IMAGE", help="Container image with optinfer, for pods."),
    click.option("--namespace", metavar="NAME", help="Kubernetes namespace; default: kubectl's."),
    click.option("--workers", type=click.IntRange(1), metavar="N", help="Most pods that score; default: 2."),
    click.option(
        "--secret", metavar="NAME", help="Kubernetes secret whose entries all pods have in their environment."
    ),
)


def _of_targets(command: Any) -> Any:
    for option in reversed(_OF_TARGETS):
        command = option(command)
    return command


@click.command()
@options.job
@options.changes
@click.option("--cron", required=True, metavar="EXPRESSION", help='When, in five fields: "0 2 * * *".')
@click.option("--timezone", required=True, metavar="ZONE", help="What time zone that is in: Europe/Paris.")
@click.option("--target", required=True, metavar="TARGET", help="What starts it; see below.")
@click.option("--out", required=True, metavar="FOLDER", help="Where the files go.")
@click.option("--name", metavar="NAME", help="Of units and objects; default: optinfer- and the job's.")
@click.option("--force", is_flag=True, help="Overwrite files there that differ.")
@_of_targets
@options.as_json
def schedule(job: str, as_json: bool, **given: Any) -> None:
    """Render files with which a scheduler runs a job every night; start nothing.

    Targets: cron, systemd, k8s (a CronJob), rayjob, raycronjob (alpha), airflow, dagster, and those of other packages.
    """
    from dataclasses import fields

    from optinfer.deployment.schedule import Wanted
    from optinfer.deployment.schedule import schedule as render
    from optinfer.deployment.targets import Options

    of_targets = {field.name: given.pop(field.name) for field in fields(Options)}
    rendered = render(job, Wanted(**given, options=Options(**of_targets)))
    for line in rendered.warnings:
        say(f"warning: {line}")
    answer(rendered, as_json, _text)


def _text(rendered: Rendered) -> str:
    lines = [*rendered.files, f"next: {', '.join(rendered.next_ticks)}"]
    return "\n".join([*lines, "now:", *(f"  {step}" for step in rendered.then)])
