"""What happens in a run, as its journal has it, line by line, and as MLflow is fed from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from optinfer.records.comparison import Candidate, Unmeasured
from optinfer.records.receipt import Receipt
from optinfer.records.record import Record, decoded_leniently
from optinfer.records.tuning import Outcome

Params = Mapping[str, object]


@dataclass(frozen=True)
class Event(Record):
    """Something that happened; `kind` is what a journal calls it."""

    kind: ClassVar[str]


@dataclass(frozen=True, kw_only=True)
class Dataset(Record):
    """A table that a run read or wrote; `context` is `input` or `output`.

    Attributes:
        rows: of the table; None where nobody counted, and in journals of before.
        columns: name -> type, as Arrow writes it.
    """

    name: str
    digest: str
    source: str
    context: str
    rows: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """A run began.

    Attributes:
        note: its description until it ends, in Markdown.
        model_id: MLflow's id of the logged model that it scores with, where the tracker's store has it.
    """

    kind: ClassVar[str] = "start"
    run_name: str
    params: Params
    tags: Mapping[str, str]
    inputs: tuple[Dataset, ...] = ()
    note: str = ""
    model_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Tracked(Event):
    """Where MLflow is to have a run, and the run's id there as soon as it is known.

    Attributes:
        uri: without what could be a secret.
        host: the machine that a store without a server is on.
    """

    kind: ClassVar[str] = "mlflow"
    uri: str
    experiment: str
    host: str
    mlflow_run_id: str | None = None


@dataclass(frozen=True)
class ParamsKnown(Event):
    kind: ClassVar[str] = "params"
    params: Params


@dataclass(frozen=True)
class Warned(Event):
    kind: ClassVar[str] = "warning"
    message: str


@dataclass(frozen=True)
class Selected(Event):
    """A variant was chosen; `others` says of each of the others why not, `why` in a word that programs read."""

    kind: ClassVar[str] = "selection"
    chosen: str
    others: Mapping[str, str]
    why: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Resumed(Event):
    """An output held rows already, which earlier attempts committed."""

    kind: ClassVar[str] = "resumed"
    rows: int


@dataclass(frozen=True)
class Committed(Event):
    kind: ClassVar[str] = "receipt"
    receipt: Receipt

    def as_dict(self) -> dict[str, Any]:
        return self.receipt.as_dict()


@dataclass(frozen=True)
class Compared(Event):
    """A variant of a comparison was measured, or could not be."""

    kind: ClassVar[str] = "candidate"
    result: Candidate | Unmeasured

    def as_dict(self) -> dict[str, Any]:
        return self.result.as_dict()


@dataclass(frozen=True)
class Tried(Event):
    """A point of a search was measured."""

    kind: ClassVar[str] = "trial"
    outcome: Outcome

    def as_dict(self) -> dict[str, Any]:
        return self.outcome.as_dict()


@dataclass(frozen=True)
class MetAgain(Tried):
    """A point was measured in a round with the others."""

    kind: ClassVar[str] = "round"


@dataclass(frozen=True, kw_only=True)
class Below(Event):
    """One of those that a run compares, as a run of its own below it; names are unique in a run.

    Attributes:
        note: its description, in Markdown.
    """

    kind: ClassVar[str] = "child"
    name: str
    params: Params
    note: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    artifacts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Attached(Event):
    """A file that belongs to a run; `content` is in base64, so that a journal alone can be replayed anywhere."""

    kind: ClassVar[str] = "file"
    name: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    kind: ClassVar[str] = "error"
    message: str
    traceback: str


@dataclass(frozen=True, kw_only=True)
class NotDelivered(Event):
    """News of a run did not reach who waits for it; `body` is what they were to get."""

    kind: ClassVar[str] = "undelivered"
    what: str
    to: str
    reason: str
    body: str


@dataclass(frozen=True, kw_only=True)
class Finished(Event):
    """A run ended; `status` is `done`, `failed` or `interrupted`. `artifacts` are files by name.

    Attributes:
        note: its description, in Markdown.
    """

    kind: ClassVar[str] = "finish"
    status: str = "done"
    metrics: Mapping[str, float] = field(default_factory=dict)
    outputs: tuple[Dataset, ...] = ()
    artifacts: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


# Those that MLflow is fed from, and that are read back; receipts are more than can be decoded one by one.
_READ_BACK: tuple[type[Event], ...] = (
    Started, Tracked, ParamsKnown, Selected, Resumed, Below, Attached, Finished
)  # fmt: skip


def read_back(raw: Mapping[str, Any]) -> Event | None:
    """Return an event as a journal has it; None where it is none that is read back.

    Raises:
        ValueError: it is not what its kind says.
    """
    kind = next((one for one in _READ_BACK if one.kind == raw.get("event")), None)
    return decoded_leniently(kind, raw) if kind else None
