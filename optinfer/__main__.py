"""The program: `optinfer`, and `python -m optinfer`."""

from __future__ import annotations

import atexit
import io
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TextIO

from optinfer.cli import main
from optinfer.cli.printing import Guarded, say, told

if TYPE_CHECKING:
    from optinfer.system.guard import Death

# With one of these, or with none at all, the program says how it is used, and needs nobody who outlives it.
_ASKED_FOR_HELP = frozenset({"-h", "--help", "--version"})


def program(main: Callable[[], None] = main) -> NoReturn:
    """Run the command line, in a child whose end is told however it comes, and end the process."""
    _fill_standard_streams()
    if len(sys.argv) == 1 or not _ASKED_FOR_HELP.isdisjoint(sys.argv):
        _command(main)
    from optinfer.system.guard import guarded

    _leave(guarded(partial(_command, main), _settle))


def _command(main: Callable[[], None]) -> NoReturn:
    """Run the command line and end the process.

    Taking Ray, MLflow and pyarrow down object by object takes Python one to two seconds, for nothing: what has to be
    done at the end is registered with atexit, and is done.
    """
    code = 1
    unguarded = _guard_standard_streams()
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    code = _flushed(code, *unguarded)
    if will := sys.modules.get("optinfer.system.will"):
        will.leave(will.ENDED, code=str(code))  # whatever native threads make of the rest
    atexit._run_exitfuncs()
    _leave(code, *unguarded)


def _settle(death: Death) -> NoReturn:
    """Tell how the command's process ended, which it could not, put in order what it left, and end this one."""
    from optinfer.commands.aftermath import put_in_order, what_ended
    from optinfer.system import last_resort

    unguarded = _guard_standard_streams()
    error = what_ended(death)
    code, message = last_resort.ended(error)
    told(error, message, code, as_json="--json" in sys.argv)
    put_in_order(death, error, say)
    _leave(code, *unguarded)


def _leave(code: int, *unguarded: TextIO) -> NoReturn:
    if logging := sys.modules.get("logging"):
        logging.shutdown()
    os._exit(_flushed(code, *unguarded))


def _flushed(code: int, *unguarded: TextIO) -> int:
    """Return the exit code once all that was printed has been taken, or nobody takes it."""
    for stream in (sys.stdout, sys.stderr, *unguarded):
        try:
            stream.flush()
        except (OSError, ValueError):  # nobody reads it any more
            code = code or 1
    return code


def _fill_standard_streams() -> None:
    """Give closed standard streams to /dev/null, and let no character that they cannot show end a command.

    The next file that is opened would take a closed stream's number, and with it what libraries print there: a Parquet
    file or a journal with log lines in it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            taken = os.open(os.devnull, os.O_RDWR)
            if taken != number:
                os.dup2(taken, number)
                os.close(taken)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _guard_standard_streams() -> tuple[TextIO, TextIO]:
    """Let nothing secret out, whoever prints it: a library's log line or warning, a thread's traceback.

    Returns:
        the streams as they were: they would close what they share if nobody held them.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        Guarded.of(stream) if isinstance(stream, io.TextIOWrapper) else stream for stream in before
    )
    return before


if __name__ == "__main__":
    program()
