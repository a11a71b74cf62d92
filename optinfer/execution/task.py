"""What every replica of a job is given: where its rows come from and go, and what scores them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from optinfer.data.sinks import SINKS, Sink
from optinfer.data.sources import SOURCES, Reader
from optinfer.execution.arms import Experiment, Score
from optinfer.families import Columns, as_roles
from optinfer.inference.answers import Scored
from optinfer.inference.replica import ReplicaSettings
from optinfer.records.binding import of_arms
from optinfer.records.receipt import Receipt
from optinfer.system.outages import has_answered


class Meter(Protocol):
    """What counts a replica's work while it goes on, for whoever watches; it decides nothing."""

    def __call__(self, receipt: Receipt) -> None:
        """Count a committed fragment; never called by two threads at once."""


class Place(Protocol):
    """Brings what a replica loads to the node that it is on."""

    def placed(self, settings: ReplicaSettings) -> ReplicaSettings:
        """Return the settings with every folder where it is on this node; raises OptinferError where that cannot be."""


class Nodes(Protocol):
    """The nodes of a job, as one replica sees them."""

    def here(self) -> str:
        """Name the node that the replica is on."""

    def gone(self, node: str) -> bool:
        """Tell whether a node has left, or is about to: what was begun there and not ended says nothing of its rows."""

    def leaving(self) -> bool:
        """Tell whether the replica's own node is about to leave; asked before every fragment."""

    def leave(self) -> None:
        """End the replica here, so that it begins elsewhere with what it was given."""

    def came_late(self) -> bool:
        """Tell whether the replica's own node was not there when the job looked at its nodes."""

    def refuse(self, why: str) -> None:
        """Have the job's replicas keep away from this node, which cannot answer as certified."""


class OneNode:
    """A node that stays as long as the job does."""

    def here(self) -> str:
        return "here"

    def gone(self, node: str) -> bool:
        return False

    def leaving(self) -> bool:
        return False

    def leave(self) -> None:
        raise AssertionError("a node that stays is not left")

    def came_late(self) -> bool:
        return False

    def refuse(self, why: str) -> None:
        pass  # there is no other


# Makes the meter of one replica from its labels.
MakeMeter = Callable[[Mapping[str, str]], Meter]


@dataclass(frozen=True)
class Watch:
    """What is watched.

    Attributes:
        share: of the rows that is measured; from 1 on all are.
        columns: source columns beside the model's own.
    """

    share: float
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ScoringTask:
    """What every replica of a job needs besides the model: where rows come from, and where they go.

    Attributes:
        job: its name, under which its replicas' work is counted.
        pools: the replica of each pool's actors; without a GPU an actor is of the first pool that needs none.
        source, sink: kinds of tables.
        columns: family role -> source column or columns; `columns_read` names all of these.
        carried: schema of the source columns in the output, and of the experiment's column where there is one.
        most_quarantined: how many more rows of the whole table may be.
        retry: rows that were quarantined are tried again, and the answers of others kept.
        watch: what is kept of rows and answers to be held against other nights'; None keeps nothing.
        place: None where replicas are on the machine that has their files.
        experiment: None where all rows are the job's own; else the only pool is its control's.
    """

    job: str = ""
    pools: tuple[ReplicaSettings, ...]
    columns: Columns
    columns_read: list[str]
    carried: pa.Schema
    source: str
    sink: str
    output_url: str
    fingerprint: str
    on_error: str
    on_bad_file: str
    most_quarantined: float = math.inf
    retry: bool = False
    watch: Watch | None = None
    place: Place | None = None
    experiment: Experiment | None = None

    @property
    def artifacts(self) -> frozenset[str]:
        """Those whose answers may be in the output."""
        return frozenset(map(self.artifact, self.pools))

    def artifact(self, settings: ReplicaSettings) -> str:
        """Name what makes the parts of a replica with these settings."""
        if self.experiment is None:
            return settings.artifact.key
        return of_arms([settings.artifact.key, *(arm.settings.artifact.key for arm in self.experiment.arms)])

    @property
    def loaded(self) -> tuple[ReplicaSettings, ...]:
        """Everything that some replica loads."""
        arms = self.experiment.arms if self.experiment else ()
        return (*self.pools, *(arm.settings for arm in arms))

    def settings(self, gpu: bool) -> ReplicaSettings:
        """Return the replica of an actor that was given a GPU, or none."""
        fit = [one for one in self.pools if (one.device == "cuda") == gpu]
        return fit[0] if fit else self.pools[0]

    def labels(self, settings: ReplicaSettings) -> dict[str, str]:
        """Return what a replica's work is counted under."""
        return {"job": self.job, "variant": settings.variant, "device": settings.device}

    def roles(self, table: pa.Table) -> pa.Table:
        """Return what the model is given of a table of the source."""
        return as_roles(table, self.columns)

    def scored(self, table: pa.Table, score: Score) -> Scored:
        """Return the answers to rows of the source; `score` gives those of one arm, of which most jobs have one."""
        if self.experiment is None:
            return score(0, self.roles(table))
        return self.experiment.scored(table, self.roles, score)

    def reader(self) -> Reader:
        """Return what reads fragments: the columns that the model needs, and those that are carried."""
        names = [*self.columns_read, *self.carried.names]
        if self.experiment:
            names = [self.experiment.key, *(name for name in names if name != self.experiment.column)]
        return SOURCES.get(self.source).reader(list(dict.fromkeys(names)))

    def with_arms(self, table: pa.Table) -> pa.Table:
        """Return a table of the source with the column that says whose each row is, where the job is an experiment."""
        return self.experiment.dealt(table) if self.experiment else table

    def output(self) -> Sink:
        """Return what takes a replica's parts; that their store answers is known: the driver holds the output."""
        has_answered(self.output_url)
        return SINKS.get(self.sink).open(self.output_url)
