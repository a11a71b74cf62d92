"""What goes where: data to stdout, everything else to stderr; no secret to either.

What JSON needs is imported where some is printed: `--help` does without.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any, Self, TypeVar

import click

from optinfer.errors import OptinferError
from optinfer.secrets import clean, scrubbed

T = TypeVar("T")


class Guarded(io.TextIOWrapper):
    """A stream of the program's that lets no secret out; each `write` is looked at alone."""

    @classmethod
    def of(cls, stream: io.TextIOWrapper) -> Self:
        """Return one that writes where `stream` does, which has to live as long."""
        return cls(
            stream.buffer,
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )

    def write(self, text: str, /) -> int:
        super().write(scrubbed(text))
        return len(text)


def say(line: str) -> None:
    """Tell a person; a terminal that went away ends no job."""
    with contextlib.suppress(OSError, ValueError):
        click.echo(scrubbed(line), err=True)


def answer(value: T, as_json: bool, render: Callable[[T], str]) -> None:
    """Print a command's answer, as JSON or for people."""
    if as_json:
        import json

        from optinfer.records.record import plain

        return out(json.dumps(clean(plain(value)), default=str))
    out(render(value))


def out(text: str) -> None:
    """Print data.

    Raises:
        OptinferError: stdout takes none.
    """
    try:
        click.echo(scrubbed(text))
    except BrokenPipeError:  # whoever read it has gone, as `head` does: click ends the command without a word
        raise
    except OSError as error:
        raise OptinferError(
            f"cannot write to stdout: {error.strerror or error}; what the command did stands, only its answer is lost: "
            "give stdout a place with room"
        ) from error


def told(error: BaseException, message: str, code: int, as_json: bool) -> None:
    """Tell a person how a command ended, and a script that waits for an object."""
    interrupted = isinstance(error, KeyboardInterrupt)
    say(message if interrupted else f"error: {message}")
    if as_json:
        failure(error, message, code, "interrupted" if interrupted else "failed")


def failure(error: BaseException, message: str, code: int, status: str) -> None:
    """Print a failure as the JSON object that a script waits for."""
    import json

    told: dict[str, Any] = clean({
        "status": status, "error": type(error).__name__, "message": message, "exit_code": code
    })  # fmt: skip
    with contextlib.suppress(BrokenPipeError, OptinferError):
        out(json.dumps(told))
