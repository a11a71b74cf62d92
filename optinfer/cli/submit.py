"""`optinfer submit`: a job on a Ray cluster, followed to its end."""

from __future__ import annotations

import sys
from typing import Any

import click

from optinfer.cli import options
from optinfer.cli.printing import answer, out, say


@click.command()
@options.job
@options.changes
@options.logical_date
@options.as_json
@click.option(
    "--address",
    metavar="http://HOST:8265|ray://…|auto",
    help="Ray cluster; default: $RAY_API_SERVER_ADDRESS, else $RAY_ADDRESS, else a cluster of this machine.",
)
@click.option("--header", multiple=True, metavar="NAME=VALUE", help="HTTP header; default: JSON in $RAY_JOB_HEADERS.")
@click.option("--verify", default="true", metavar="true|false|PATH", help="Trusted certificates of an https address.")
@click.option("--env", multiple=True, metavar="NAME[=VALUE]", help="Pass a variable on; nothing else passes.")
@click.option("--shared", multiple=True, metavar="FOLDER", help="The cluster's nodes have this folder, too.")
@click.option("--python", default="python", metavar="COMMAND", help="The cluster's interpreter.", show_default=True)
@click.option("--no-wait", is_flag=True, help="Print the submission id and end.")
@click.option("--retries", type=click.IntRange(0), default=0, help="Go on with it after exit codes 1 and 130.")
@click.option("--stop", is_flag=True, help="Stop the job, if it is live, and wait until it has ended.")
@click.option("--render", is_flag=True, help="Print a KubeRay RayJob instead of sending anything.")
@click.option("--image", default=None, metavar="IMAGE", help="With --render: an image that has optinfer.")
def submit(job: str, overrides: tuple[str, ...], as_json: bool, render: bool, **chosen: Any) -> None:
    """Run a job on a Ray cluster: attach to it if it is live, else send it, and follow it to its end.

    The exit code is the job's own. Ctrl-C detaches: the job goes on.
    """
    from optinfer.deployment import command

    request = command.Request(job, overrides, **chosen)
    if render:
        out(command.rendered(request, say).rstrip("\n"))
        return
    done = command.submitted(request, say)
    if as_json or command.text(done):
        answer(done, as_json, command.text)
    sys.exit(done.exit_code)
