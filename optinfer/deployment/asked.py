"""What a command line says of a submission, as values: variables, headers, certificates."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable
from datetime import date

from optinfer.errors import ConfigError, redact, scrubbed
from optinfer.secrets import is_secret_name

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY = re.compile(r"(^|_)KEY($|_)", re.IGNORECASE)
_YES, _NO = ("true", "1", "yes"), ("false", "0", "no")


def variables(given: Iterable[str], say: Callable[[str], None]) -> tuple[tuple[str, str], ...]:
    """Return the variables of `NAME=VALUE`, or `NAME` with the value it has here.

    Raises:
        ConfigError: there is no such variable here, or it is no name.
    """
    found: dict[str, str] = {}
    for text in given:
        name, has_value, value = text.partition("=")
        if not _NAME.fullmatch(name):
            raise ConfigError(f"--env {name!r} is no name of a variable; write it as NAME or NAME=VALUE")
        if not has_value and name not in os.environ:
            raise ConfigError(f"--env {name}: there is no such variable here; write it as {name}=VALUE, or set it")
        if is_secret_name(name) or _KEY.search(name):
            say(
                f"--env {name}: whoever may see the cluster's jobs can read it; secrets are safer on the nodes "
                "themselves (a role, a mounted file, a Kubernetes Secret)"
            )
        found[name] = value if has_value else os.environ[name]
    return tuple(found.items())


def require_no_secret(what: str, texts: Iterable[str], names: Iterable[str] = ()) -> None:
    """Refuse to write a file with a secret in it, which whoever may read the file has.

    Args:
        what: the file is.
        texts: that go into it.
        names: of variables whose values do.

    Raises:
        ConfigError: there is one; says where, not which.
    """
    lines = (line for text in texts for line in text.splitlines() if scrubbed(line) != line)
    found = next((scrubbed(line).strip() for line in lines), None) or next(filter(is_secret_name, names), None)
    if found:
        raise ConfigError(
            f"{what} would hold a secret ({found[:80]}); leave it out there, and give it to the pods or the machine "
            "that runs the job: a role, a Kubernetes Secret, a file that only it can read (docs/security.md)"
        )


def headers(given: Iterable[str]) -> dict[str, str]:
    """Return the headers of `NAME=VALUE`.

    Raises:
        ConfigError: one has no name.
    """
    found = {}
    for text in given:
        name, has_value, value = text.partition("=")
        if not has_value or not name.strip():
            raise ConfigError("--header: write it as NAME=VALUE, for example --header Cookie=session")
        found[name.strip()] = value
    return found


def verify(given: str) -> bool | str:
    """Return whether certificates are looked at, or the file or folder of those that are trusted.

    Raises:
        ConfigError: there is no such file.
    """
    if given.lower() in (*_YES, *_NO):
        return given.lower() in _YES
    if not os.path.exists(given):
        raise ConfigError(f"--verify {given} does not exist; give true, false, or a file or folder of certificates")
    return given


def same_again(
    job: str, overrides: Iterable[str], shared: Iterable[str], address: str | None, night: date | None = None
) -> str:
    """Return the command line that finds this job again; a password in the address is left out."""
    words = ["optinfer", "submit", job]
    words += [word for change in overrides for word in ("--set", change)]
    words += ["--logical-date", night.isoformat()] if night else []
    words += [word for folder in shared for word in ("--shared", folder)]
    words += ["--address", redact(address)] if address else []
    return shlex.join(words)
