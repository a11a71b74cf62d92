"""Commands: parse, call, print. Data goes to stdout, everything else to stderr; exit codes are those of errors.py.

Nothing but click is imported here; a command imports what it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import click

from optinfer.errors import INTERRUPTED, ConfigError, NoVariantError, OptinferError

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
    from optinfer.commands.run import run as run_job
    from optinfer.job_file import load_job
    from optinfer.records.text import run_text

    config = load_job(job, overrides)
    _print(run_job(config, address, say), as_json, run_text)


@cli.command()
@_job
@_set
@_json
def plan(job: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show what `run` would do on this machine; start nothing, write nothing to the sink."""
    from optinfer.commands.plan import plan as plan_of
    from optinfer.commands.resolved import resolve
    from optinfer.data.storage import reaching
    from optinfer.job_file import load_job
    from optinfer.records.text import plan_text

    config = load_job(job, overrides)
    resolved = resolve(config)
    with reaching(config.sink.path):
        record = plan_of(resolved)
    _print(record, as_json, plan_text)


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
    from optinfer.commands.optimize import optimize as optimize_job
    from optinfer.job_file import load_job
    from optinfer.records.text import optimize_text

    wanted = None if names is None else [name.strip() for name in names.split(",") if name.strip()]
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
    from optinfer.commands.tune import tune as tune_job
    from optinfer.job_file import load_job
    from optinfer.records.text import tune_text

    _print(tune_job(load_job(job, overrides), say), as_json, tune_text)


@cli.command()
@_json
def variants(as_json: bool) -> None:
    """List the variants, and why one is not available here."""
    from optinfer.optimization.variants import listing
    from optinfer.records.text import variants_text

    _print(listing(), as_json, variants_text)


@cli.command()
@_address
@_json
@click.option("--job", metavar="JOB.yaml", help="Also check this job's model, source, sink and tracking.")
def doctor(address: str | None, as_json: bool, job: str | None) -> None:
    """Check versions, CPU, GPUs, Ray, MLflow and storage: each line is ok or says the fix."""
    from optinfer.commands.doctor import examine
    from optinfer.job_file import load_job
    from optinfer.records.text import doctor_text

    checks = examine(address, load_job(job) if job else None)
    _print(checks, as_json, doctor_text)
    if not all(check["ok"] for check in checks):
        sys.exit(1)


@cli.command()
@click.argument("output")
@_json
def status(output: str, as_json: bool) -> None:
    """Show how far the job that writes OUTPUT is."""
    from optinfer.commands.status import status as status_of
    from optinfer.data.storage import reaching
    from optinfer.records.text import status_text

    with reaching(output):
        record = status_of(output)
    _print(record, as_json, status_text)


def say(line: str) -> None:
    """Tell a person; a terminal that went away ends no job."""
    with contextlib.suppress(OSError, ValueError):
        click.echo(line, err=True)


def _print(value: Any, as_json: bool, render: Callable[[Any], str]) -> None:
    _out(json.dumps(value, default=str) if as_json else render(value))


def _out(text: str) -> None:
    try:
        click.echo(text)
    except BrokenPipeError:  # whoever read it has gone, as `head` does: click ends the command without a word
        raise
    except OSError as error:
        raise OptinferError(
            f"cannot write to stdout: {error.strerror or error}; what the command did stands, only its answer is lost: "
            "give stdout a place with room"
        ) from error


def _terminate(*_: object) -> None:
    """End as an interrupt does.

    Ray's own handler has run before this one, and set an alarm that aborts the process after three seconds: closing a
    record may take longer on a busy machine.
    """
    if hasattr(signal, "alarm"):
        signal.alarm(0)
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its code; SIGTERM ends a job as an interrupt does, with its record closed."""
    with contextlib.suppress(ValueError):  # in a thread: signals belong to the main one
        signal.signal(signal.SIGTERM, _terminate)
    as_json = "--json" in (sys.argv if argv is None else argv)
    try:
        _require_working_directory()
        cli.main(args=argv, prog_name="optinfer", standalone_mode=False)
    except OptinferError as error:
        say(f"error: {error}")
        _fail(as_json, error, str(error), error.exit_code)
    except click.ClickException as error:
        with contextlib.suppress(OSError, ValueError):
            error.show()
        _fail(as_json, error, error.format_message(), error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        line = "interrupted: committed fragments are kept, the same command goes on from them"
        say(line)
        _fail(as_json, error, line, INTERRUPTED, status="interrupted")
    except Exception as error:
        _fail_unforeseen(as_json, error)
    sys.exit(0)


def _require_working_directory() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigError("the folder that this command was started in is gone; cd to one that exists") from error


def _fail_unforeseen(as_json: bool, error: Exception) -> None:
    """Say what nobody foresaw in one line; its traceback is kept, not shown."""
    from optinfer.system import last_resort

    line = last_resort.line(error)
    say(f"error: {line}")
    _fail(as_json, error, line, OptinferError.exit_code)


def _fail(as_json: bool, error: BaseException, message: str, code: int, status: str = "failed") -> None:
    if as_json:
        failure = {"status": status, "error": type(error).__name__, "message": message, "exit_code": code}
        with contextlib.suppress(BrokenPipeError, OptinferError):
            _out(json.dumps(failure))
    sys.exit(code)
