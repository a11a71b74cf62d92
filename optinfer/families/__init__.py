"""What rows and outputs mean. One file a family; this is the contract between them and the rest.

A family's module holds `family = FamilyKind(...)`, and is cheap to import.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from optinfer.config import FamilySettings as FamilySettings
from optinfer.errors import ConfigError
from optinfer.models.artifact import Artifact
from optinfer.plugins import Kind
from optinfer.records.proof import Reference as Reference

Arrays = dict[str, np.ndarray[Any, Any]]
Columns = Mapping[str, str | tuple[str, ...]]


@dataclass(kw_only=True)
class Features(ABC):
    """Rows made ready for the model.

    Attributes:
        rows: number of rows, rejected ones included.
        lengths: (rows,) cost of each row in tokens, or None where all rows cost the same.
        longest: tokens that the model takes at most, padding included; None where it sets no bound.
        same_length: rows of different lengths never share a micro-batch: the model has no mask for padding.
        rejected: row -> reason, for rows the model must not see.
    """

    rows: int
    lengths: np.ndarray[Any, Any] | None = None
    longest: int | None = None
    same_length: bool = False
    rejected: dict[int, str] = field(default_factory=dict)

    def may_share(self, one: int, other: int) -> bool:
        """Tell whether two rows may share a micro-batch."""
        return not self.same_length or self.lengths is None or bool(self.lengths[one] == self.lengths[other])

    def traits(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return what is worth watching of the rows, each (rows,): booleans are shares, floats are numbers."""
        return {} if self.lengths is None else {"tokens": self.lengths.astype(np.float64)}

    @abstractmethod
    def collate(self, rows: np.ndarray[Any, Any], pad_to: int = 0) -> Arrays:
        """Return the model inputs for some rows, padded to the longest of them (or to `pad_to`).

        Several threads may call it at a time.
        """


# Two runtimes, or one row and many, round fp32 in another order: measured up to 4e-6 of the largest number on tiny
# models and 2.5e-4 on a trained one that enlarges it (Magika). Another prompt, pooling or cut is off by 1e-2 and more.
ROUNDING = 1e-3
# The metric of a family whose answer is a set of labels: the share of rows with the baseline's own set.
SAME_ANSWERS = "same_answers"


class Family(ABC):
    """A model's rows, described by its own files; made on the machine that scores.

    Attributes:
        roles: what the job maps to source columns.
        inputs: names of the model's inputs, in the order its forward takes them.
        outputs: names of what forward returns, in order.
        dynamic_axes: input -> {axis: name} of axes that vary from call to call.
        schema: the columns a row gains.
        metrics: how outputs are compared with the baseline's, best first.
        libraries: packages whose answers `reference` asks for.
        opened_by: those that open the model whatever executes it; what is proved with one version is with no other.
        max_batch_size: rows in a micro-batch where the job does not say.
        most_rows: rows that the model takes in one call at most, whatever the job says; None without a limit.
        takes_nulls: a null is a value like another, so that rows with one belong into a sample.
        advised: key of `model` -> value and reason: what a new job of this model should say, and one that says nothing
            does without.
    """

    roles: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic_axes: Mapping[str, Mapping[int, str]]
    schema: pa.Schema
    metrics: tuple[str, ...]
    libraries: tuple[str, ...] = ()
    opened_by: tuple[str, ...] = ()
    max_batch_size: int = 64
    most_rows: int | None = None
    takes_nulls: bool = False
    advised: Mapping[str, tuple[object, str]] = MappingProxyType({})

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Return what `answers` may be, None where these are no classes, or nobody knows their names."""
        return None

    @abstractmethod
    def check(self, schema: pa.Schema, columns: Columns) -> None:
        """Refuse source columns whose type the model cannot take, with the fix."""

    @abstractmethod
    def preprocess(self, table: pa.Table) -> Features:
        """Turn a table with one column per role into features.

        A row that cannot be used is rejected, or raises: then rows are tried apart (inference/preparing.py).
        """

    @abstractmethod
    def postprocess(self, outputs: Arrays) -> pa.Table:
        """Turn model outputs, first axis rows, into a table of `schema`."""

    @abstractmethod
    def load_module(self) -> Any:
        """Return the baseline: a torch module in eval mode, fp32, whose forward takes `inputs`, gives `outputs`.

        A family of another format returns what the backend of that format calls.
        """

    def reference(self, rows: pa.Table, finished: pa.Table) -> Reference:
        """Hold finished rows against the answers of the library that the model came from.

        That library loads the user's files itself and is given the rows as they are: nothing of ours is in between.

        Args:
            rows: a table with a column per role.
            finished: the same rows' columns of `schema`, as the baseline's `postprocess` gave them.
        """
        return Reference(note="no other library reads this model")

    def answers(self, outputs: Arrays) -> np.ndarray[Any, Any]:
        """Return (rows,) what a label column would hold: a class's name, a number, or `as_answers` of its lists."""
        raise ConfigError(f"{type(self).__name__} gives no single answer to hold against gate.label; leave it out")


S = TypeVar("S", bound=FamilySettings)


@dataclass(frozen=True, kw_only=True)
class FamilyKind(Generic[S]):
    """A family, before there is a model.

    Attributes:
        settings: the type of what the job may say under `model`, beside the keys that every model has.
        fragment_rows: rows that a fragment should have.
        make: (model, settings) -> the family of this model. Cheap: no weights, and nothing heavy where the files tell
            what the model takes and gives. Raises ConfigError for a model that is not of this family.
        any_file: a model may be a file of any kind, as code of the job's own opens it.
        format: of artifacts that its models are, where that does not depend on the file; None where it does.
        roles_are_columns: a role that the job does not map is the source column of the same name.
    """

    settings: type[S]
    fragment_rows: int
    make: Callable[[Artifact, S], Family]
    any_file: bool = False
    format: str | None = None
    roles_are_columns: bool = False

    def load(self, model: Artifact, settings: Mapping[str, object]) -> Family:
        """Make the family of a model from settings as they travel: by the names that job files use."""
        return self.make(model, self.settings.model_validate(settings))


FAMILIES: Kind[FamilyKind[Any]] = Kind("family", "families", __name__, FamilyKind)


class LabelSet(str):
    """The labels of one row as one value that is equal to another's where those are the same, in any order."""

    __slots__ = ()


def as_answers(rows: Iterable[Iterable[Any]]) -> np.ndarray[Any, Any]:
    """Return (rows,) each row's labels as a `LabelSet`: what a family answers, and what a column of lists holds."""
    return np.array(
        [LabelSet(json.dumps(sorted(set(map(str, row))), ensure_ascii=False)) for row in rows], dtype=object
    )


def as_roles(table: pa.Table, columns: Columns) -> pa.Table:
    """Return a table with one column per role; several source columns become one struct column."""
    return pa.table({role: _column(table, given) for role, given in columns.items()})


def _column(table: pa.Table, given: str | tuple[str, ...]) -> Any:
    if isinstance(given, str):
        return table.column(given)
    parts = [table.column(name).combine_chunks() for name in given]
    return pa.StructArray.from_arrays(parts, names=list(given))
