"""Commands, one file each: parse, call, print. Exit codes are those of errors.py.

Nothing but click is imported here; a command imports what it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import _thread
import contextlib
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from optinfer.cli.printing import failure, say
from optinfer.errors import INTERRUPTED, INTERRUPTED_LINE, ConfigError, OptinferError
from optinfer.secrets import learn

if TYPE_CHECKING:
    from optinfer.execution.executor import Executor


# Seconds until an interrupt that was lost comes again.
_SOON = 0.01
# What commands share, and no commands.
_SHARED = ("__init__", "options", "printing")


class _Commands(click.Group):
    """The commands, found by the names of their files."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = (file.stem for file in Path(__file__).parent.glob("*.py") if file.stem not in _SHARED)
        return sorted(name.replace("_", "-") for name in names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = cmd_name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{module}"), module)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="optinfer")
def cli() -> None:
    """Score a large table once, with the fastest variant of a model that proved it gives the same answers.

    Exit codes: 0 done, 1 failed, 2 usage or job file, 3 too many quarantined rows, 4 no variant may score,
    5 output belongs to another job or a live run (promote: the alias was moved by somebody else), 130 interrupted.
    """


def _terminate(number: int, _: object) -> None:
    """End as an interrupt does, once: who asks a group of processes asks twice, and the second would cut off the end.

    Ray's own handler has run before this one, and set an alarm that aborts the process after three seconds: closing a
    record may take longer on a busy machine.
    """
    if hasattr(signal, "alarm"):
        signal.alarm(0)
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _not_lost(lost: sys.UnraisableHookArgs) -> None:
    """Interrupt once more where the interrupt came in a destructor or a weak reference's callback, which lose it."""
    if isinstance(lost.exc_value, KeyboardInterrupt):
        return threading.Timer(_SOON, _thread.interrupt_main).start()  # here it would be lost again
    sys.__unraisablehook__(lost)


def _end_when_asked() -> None:
    """Let SIGTERM, and a terminal that is closed, end a job as an interrupt does; nohup has the latter ignored."""
    sys.unraisablehook = _not_lost
    with contextlib.suppress(ValueError):  # in a thread: signals belong to the main one
        signal.signal(signal.SIGTERM, _terminate)
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            signal.signal(signal.SIGHUP, _terminate)


def main(argv: list[str] | None = None, executor: Callable[[str | None], Executor] | None = None) -> None:
    """Run the command line and exit with its code; SIGTERM and SIGHUP end a job as an interrupt does, record closed.

    Args:
        argv: None takes the process's own.
        executor: makes what `run` scores with, of its `--address`; None is Ray there.
    """
    _end_when_asked()
    typed = sys.argv if argv is None else argv
    as_json = "--json" in typed
    learn(typed)
    try:
        _require_working_directory()
        cli.main(args=argv, prog_name="optinfer", standalone_mode=False, obj=executor)
    except OptinferError as error:
        say(f"error: {error}")
        _fail(as_json, error, str(error), error.exit_code)
    except click.ClickException as error:
        usage = io.StringIO()
        error.show(usage)
        say(usage.getvalue().rstrip("\n"))
        _fail(as_json, error, error.format_message(), error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        say(INTERRUPTED_LINE)
        _fail(as_json, error, INTERRUPTED_LINE, INTERRUPTED, status="interrupted")
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
        failure(error, message, code, status)
    sys.exit(code)
