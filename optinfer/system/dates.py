"""`{date}` and `{previous}` in a path: the night that a job is for, so that a rerun of a past night is that night's.

`{date}` is the job's logical date, written as 2026-11-25, and `{previous}` the calendar day before it, whatever the
schedule: a job that runs on Mondays has the Sunday there.
"""

from __future__ import annotations

import re
from datetime import date, timedelta

from optinfer.errors import ConfigError, suggest

# Other braces are part of a name: `{a,b}`, `{}` and `{3f25-04e0}` stay what they are.
_BRACES = re.compile(r"\{\s*([A-Za-z_]\w*)\s*(?:[:!.][^{}]*)?\}")
_WORD = re.compile(r"\{(date|previous)\}")


def filled(path: str, night: date, left: tuple[str, ...] = ()) -> str:
    """Return a path with its dates.

    Args:
        left: other words, braces included, that are left for somebody else to put in.

    Raises:
        ValueError: a word in braces is none of these, or has more than its name there.
    """
    for found in _BRACES.finditer(path):
        if not _WORD.fullmatch(found[0]) and found[0] not in left:
            raise ValueError(f"{found[0]} in a path is unknown{suggest(found[0], ('{date}', '{previous}', *left))}")
    known = {"date": night, "previous": night - timedelta(days=1)}
    return _WORD.sub(lambda found: known[found[1]].isoformat(), path)


def has_dates(path: str) -> bool:
    return _WORD.search(path) is not None


def argument(path: str, night: date | None) -> str:
    """Return a path of the command line with the dates of `night`, today's where none is given.

    Raises:
        ConfigError: a word in braces is none, or the date would change nothing.
    """
    if night and not has_dates(path):
        raise ConfigError(f"--logical-date changes nothing, as {path} has no {{date}} or {{previous}}; leave it out")
    try:
        return filled(path, night or date.today())
    except ValueError as error:
        raise ConfigError(str(error)) from error
