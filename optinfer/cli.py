"""Commands: parse, call, print. Data goes to stdout, everything else to stderr; exit codes are those of errors.py.

Nothing but click is imported here; a command imports what it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from typing import Any

import click

from optinfer.errors import INTERRUPTED, NoVariantError, OptinferError

_job = click.argument("job", metavar="JOB.yaml")
_set = click.option(
    "--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Change a value of the job, e.g. source.limit=1000."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_address = click.option(
    "--address",
    metavar="auto|local|HOST:PORT|ray://…",
    help="Ray cluster; default: $RAY_ADDRESS, else Ray started here.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="optinfer")
def cli() -> None:
    """Score a large table once, with the fastest variant of a model that proved it gives the same answers.

    Exit codes: 0 done, 1 failed, 2 usage or job file, 3 too many quarantined rows, 4 no variant may score,
    5 output belongs to another job or a live run, 130 interrupted.
    """


@cli.command()
@_job
@_set
@_address
@_json
def run(job: str, overrides: tuple[str, ...], address: str | None, as_json: bool) -> None:
    """Run a job, or go on with it: what is committed is not scored again."""
    from optinfer.config import load_job
    from optinfer.job import run as run_job
    from optinfer.render import run_text

    config = load_job(job, overrides)
    _print(run_job(config, address, say), as_json, run_text)


@cli.command()
@_job
@_set
@_json
def plan(job: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show what `run` would do on this machine; start nothing, write nothing to the sink."""
    from optinfer.config import load_job
    from optinfer.planning import plan_job, preview
    from optinfer.render import plan_text

    _print(preview(plan_job(load_job(job, overrides))), as_json, plan_text)


@cli.command()
@_job
@_set
@_json
@click.option("--variants", "names", metavar="A,B,...", help="Try only these; default: all that fit.")
@click.option("--register", metavar="NAME", help="Log the winner as this MLflow model; any pyfunc client can load it.")
@click.option("--plot", metavar="FILE.png", help="Where the plot goes; default: beside the journal.")
def optimize(
    job: str, overrides: tuple[str, ...], as_json: bool, names: str | None, register: str | None, plot: str | None
) -> None:
    """Build, measure and compare the variants of a job's model on the job's own rows; score nothing."""
    from optinfer.config import load_job
    from optinfer.optimizing import optimize as optimize_job
    from optinfer.render import optimize_text

    wanted = [name.strip() for name in names.split(",") if name.strip()] if names else None
    record = optimize_job(load_job(job, overrides), wanted, register, plot, say)
    _print(record, as_json, optimize_text)
    if record["winner"] is None:
        sys.exit(NoVariantError.exit_code)


@cli.command()
@_job
@_set
@_json
def tune(job: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Search variant, micro-batches, replicas and threads for the fastest on this node; later runs use what won."""
    from optinfer.config import load_job
    from optinfer.render import tune_text
    from optinfer.tuning import tune as tune_job

    _print(tune_job(load_job(job, overrides), say), as_json, tune_text)


@cli.command()
@_json
def variants(as_json: bool) -> None:
    """List the variants, and why one is not available here."""
    from optinfer.optimization.variants import listing
    from optinfer.render import variants_text

    _print(listing(), as_json, variants_text)


@cli.command()
@_address
@_json
@click.option("--job", metavar="JOB.yaml", help="Also check this job's model, source, sink and tracking.")
def doctor(address: str | None, as_json: bool, job: str | None) -> None:
    """Check versions, CPU, GPUs, Ray, MLflow and storage: each line is ok or says the fix."""
    from optinfer.config import load_job
    from optinfer.doctor import examine
    from optinfer.render import doctor_text

    checks = examine(address, load_job(job) if job else None)
    _print(checks, as_json, doctor_text)
    if not all(check["ok"] for check in checks):
        sys.exit(1)


@cli.command()
@click.argument("output")
@_json
def status(output: str, as_json: bool) -> None:
    """Show how far the job that writes OUTPUT is."""
    from optinfer.planning import status as status_of
    from optinfer.render import status_text

    _print(status_of(output), as_json, status_text)


def say(line: str) -> None:
    click.echo(line, err=True)


def _print(value: Any, as_json: bool, render: Callable[[Any], str]) -> None:
    click.echo(json.dumps(value, default=str) if as_json else render(value))


def _terminate(*_: object) -> None:
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its code; SIGTERM ends a job as an interrupt does, with its record closed."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        cli.main(args=argv, prog_name="optinfer", standalone_mode=False)
    except OptinferError as error:
        say(f"error: {error}")
        if "--json" in (sys.argv if argv is None else argv):
            failure = {"status": "failed", "error": type(error).__name__, "message": str(error)}
            click.echo(json.dumps({**failure, "exit_code": error.exit_code}))
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        say("interrupted: committed fragments are kept, the same command goes on from them")
        sys.exit(INTERRUPTED)
    sys.exit(0)
