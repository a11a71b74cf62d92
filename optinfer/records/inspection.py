"""What `verify` and `explain` answer: a finished output's rows, scored again beside what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from optinfer.records.record import Record


@dataclass(frozen=True, kw_only=True)
class Changed(Record):
    """Something that answers depend on, and that is not as it was when the output was scored.

    Attributes:
        kind: `package`, `cpu feature`, `gpu`, `file` (weights, tokenizer; by SHA-256), `model` or `artifact` (by
            digest).
    """

    kind: Literal["package", "cpu feature", "gpu", "file", "model", "artifact"]
    name: str
    was: str
    now: str


@dataclass(frozen=True, kw_only=True)
class LostFile(Record):
    """An input file that is gone or changed, so that its rows cannot be scored again; `rows` of the output are its."""

    path: str
    why: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class ColumnMoved(Record):
    """One column of answers.

    Attributes:
        largest_difference: of any number; None where values other than numbers differ.
        rows: those beyond the tolerance.
    """

    column: str
    largest_difference: float | None
    rows: int


@dataclass(frozen=True, kw_only=True)
class RowMoved(Record):
    """A row whose answer is another one now.

    Attributes:
        part, row: where it is stored, from 0.
        source, source_row: where it came from, from 0.
        said: what differs.
    """

    part: str
    row: int
    source: str
    source_row: int
    said: str


@dataclass(frozen=True, kw_only=True)
class VerifyRecord(Record):
    """A sample of a finished output, scored again.

    Attributes:
        status: `same`: all within the certificate's tolerance; `moved`; `unverified`: no row could be scored again.
        reason: in a line.
        run_id: of the run that finished the output.
        rows, fragments: scored again.
        rows_bit_for_bit: of `rows`, those that are stored just so.
        rows_moved: of `rows`, those beyond the tolerance, or with an answer where there was none.
        largest_difference: of any number; None where no number was compared.
        changed: what answers depend on and is not as it was; it need not have moved any.
        moved: the rows to look at, those furthest apart first.
        lost: input files whose rows cannot be scored again.
    """

    status: Literal["same", "moved", "unverified"]
    reason: str
    output: str
    job: str
    run_id: str
    variant: str
    artifact: str
    rows: int
    fragments: int
    rows_bit_for_bit: int
    rows_moved: int
    largest_difference: float | None
    tolerance: float
    columns: tuple[ColumnMoved, ...]
    changed: tuple[Changed, ...]
    moved: tuple[RowMoved, ...]
    lost: tuple[LostFile, ...]


@dataclass(frozen=True, kw_only=True)
class Explained(Record):
    """One row of an output, and all that made it.

    Attributes:
        part, row: where it is stored, from 0; no row where it was set aside.
        source, source_row: the file and the row of it, from 0.
        arm: of an experiment; None where the job is none.
        variant, artifact: of the control, and of all arms together, where it is one.
        node: that scored it, with the process; empty where no journal lies beside the output.
        committed: when, in seconds since the epoch.
        no_answer: why it could not be scored.
        stored: columns -> values, as they lie there; of one that was set aside, what was kept of it.
        again: the columns of answers, scored again; empty where they could not be, as `not_again` says.
        difference: the largest of any number; None where there is none, or other values differ.
        same: within the certificate's tolerance; None where it was not scored again.
    """

    part: str
    row: int | None
    source: str
    source_row: int
    variant: str
    artifact: str
    arm: str | None = None
    node: str = ""
    committed: float | None = None
    no_answer: str = ""
    stored: Mapping[str, Any]
    again: Mapping[str, Any]
    not_again: str = ""
    difference: float | None = None
    same: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Proved(Record):
    """What of an artifact's certificate an answer rests on."""

    variant: str
    artifact: str
    sample: str
    measured_at: str
    metric: str
    value: float
    rows: int
    reference: str
    batch_invariant: bool
    tolerance: float


@dataclass(frozen=True, kw_only=True)
class ExplainRecord(Record):
    """The rows of an output that were asked for.

    Attributes:
        where: columns -> the values that were asked for.
        more: rows beyond those that are shown.
        certificates: of the artifacts that scored these rows; `changed`: what is not as it was since.
    """

    status: str = "done"
    output: str
    job: str
    run_id: str
    where: Mapping[str, str]
    rows: tuple[Explained, ...]
    more: bool
    certificates: tuple[Proved, ...]
    changed: tuple[Changed, ...]
