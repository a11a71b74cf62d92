"""Every error a person can meet, as one tree; each class carries the exit code scripts rely on.

    OptinferError                 1   the job failed
    ├── ConfigError               2   the job file or the command line is wrong
    │   └── PlacementError        2   the requested placement cannot run on these resources
    ├── SourceError               1   an input file cannot be read: out of reach, or not the one that was planned
    │   └── CorruptFileError      1   the decoder refuses the very bytes that were planned
    ├── StorageError              1   a store or disk does not do what it is asked, however often
    ├── RowError                  1   a row cannot be scored and the job says `sink.on_error: raise`
    ├── AccountingError           1   rows in differ from rows scored plus rows quarantined
    ├── QuarantineError           3   more rows were quarantined than `sink.error_threshold` allows
    ├── NoVariantError            4   no variant may score the rows
    │   ├── UnavailableError      4   the machine lacks what the variant needs
    │   ├── GateError             4   the variant does not keep the quality the gate asks for
    │   └── LoadError             4   a replica cannot load the variant
    │       └── UnfitNodeError    4   a node is not, or computes not as, what the variant was certified on
    ├── OutputConflictError       5   the output belongs to another fingerprint or to a live run
    └── AliasMovedError           5   a registry's alias is not where it was when this was decided

A message says what happened, why, and the exact fix.
"""

from __future__ import annotations

from collections.abc import Iterable

from optinfer.secrets import redact as redact
from optinfer.secrets import scrubbed as scrubbed
from optinfer.secrets import without_secrets as without_secrets

INTERRUPTED = 130
INTERRUPTED_LINE = "interrupted: committed fragments are kept, the same command goes on from them"


class OptinferError(Exception):
    """Base of all errors raised on purpose; whoever reads one reads no secret in it."""

    exit_code = 1

    def __str__(self) -> str:
        return scrubbed(super().__str__())


class ConfigError(OptinferError):
    exit_code = 2


class PlacementError(ConfigError):
    pass


class SourceError(OptinferError):
    pass


class CorruptFileError(SourceError):
    pass


class StorageError(OptinferError):
    pass


class RowError(OptinferError):
    pass


class AccountingError(OptinferError):
    pass


class QuarantineError(OptinferError):
    exit_code = 3


class NoVariantError(OptinferError):
    exit_code = 4


class UnavailableError(NoVariantError):
    pass


class GateError(NoVariantError):
    """No variant may score; `problem` is the error without its `remedy`, for whoever knows a better one."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem}\n{remedy}" if remedy else problem)
        self.problem = problem


class LoadError(NoVariantError):
    pass


class UnfitNodeError(LoadError):
    pass


class OutputConflictError(OptinferError):
    exit_code = 5


class AliasMovedError(OptinferError):
    exit_code = 5


def suggest(word: str, valid: Iterable[str]) -> str:
    """Return `; did you mean 'x'? valid: a, b, x` for an error about an unknown `word`."""
    import difflib  # not for every command that starts

    choices = sorted(valid)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{hint} valid: {', '.join(choices)}"
