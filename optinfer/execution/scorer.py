"""The actor's work on one fragment, without Ray: read, score, commit, and say what came of it.

Two threads call it at a time, so one fragment's reading and committing overlap with another's time in the model.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.data.fragments import Fragment
from optinfer.data.output import Output
from optinfer.data.reading import FragmentReader
from optinfer.errors import (
    AccountingError,
    CorruptFileError,
    LoadError,
    NoVariantError,
    OptinferError,
    RowError,
    redact,
)
from optinfer.families import Columns, as_roles
from optinfer.inference.answers import Scored
from optinfer.inference.isolation import IsolatedReplica
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.system import last_resort
from optinfer.tracking.metrics import Stats, peak_rss_mb


@dataclass(frozen=True, kw_only=True)
class ScoringTask:
    """What every replica of a job needs besides the model: where rows come from, and where they go.

    Attributes:
        beside: the second variant's replica, for actors without a GPU.
        columns: family role -> source column or columns; `columns_read` names all of these.
        carried: schema of the source columns in the output.
    """

    settings: ReplicaSettings
    columns: Columns
    columns_read: list[str]
    carried: pa.Schema
    output_url: str
    fingerprint: str
    on_error: str
    on_bad_file: str
    beside: ReplicaSettings | None = None

    @property
    def artifacts(self) -> frozenset[str]:
        """Those whose answers may be in the output."""
        return frozenset(settings.artifact.key for settings in (self.settings, self.beside) if settings)


@dataclass(frozen=True)
class Receipt:
    """What committing a fragment returned.

    Attributes:
        artifact, variant: what made the part; another's than the replica's where that one was first.
        replica: the process that made it, `pid@node`.
        load_started: when its actor began to load the model, in seconds since the epoch, as is `committed`.
        max_batch_tokens, max_batch_size: the limits of a micro-batch that its replica has come to.
        sha256, stamp: of the part as it was put; `quarantine_file` and its bytes lie beside it.
    """

    fragment: int
    part: str
    artifact: str
    variant: str
    stats: Stats
    reasons: dict[str, int]
    replica: str
    node: str
    load_started: float
    load_seconds: float
    committed: float
    peak_rss_mb: float
    max_batch_tokens: int
    max_batch_size: int
    sha256: str | None = None
    stamp: int | None = None
    quarantine_file: str | None = None
    quarantine_bytes: int | None = None

    @property
    def files(self) -> dict[str, Any]:
        """What the commit left in the folder."""
        return {
            "bytes": self.stats.bytes_out,
            "sha256": self.sha256,
            "stamp": self.stamp,
            "quarantine_file": self.quarantine_file,
            "quarantine_bytes": self.quarantine_bytes,
        }


class FragmentScorer:
    """The actor: one replica."""

    def __init__(self, task: ScoringTask) -> None:
        self._load_started = time.time()
        self._node = _node_name()
        self._task = task
        self._settings = _own_settings(task)
        self._output = Output(task.output_url)
        self._reader = FragmentReader(list(dict.fromkeys([*task.columns_read, *task.carried.names])))
        # The model loads while the first fragments are read. What it raises, a call says: an actor whose constructor
        # raises would be started again and again.
        self._loading = ThreadPoolExecutor(1, "optinfer-load").submit(_load, self._settings)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Score a run of fragments, one after another, up to the first error."""
        receipts: list[dict[str, Any]] = []
        for named in json.loads(row["run"]):
            receipts.append(self._answer(Fragment(**named["fragment"]), named["part"]))
            if "error" in receipts[-1]:
                break
        return {"receipts": json.dumps(receipts)}

    def _answer(self, fragment: Fragment, part: str) -> dict[str, Any]:
        """Score one fragment; an error comes back as a value, so that the driver sees it as it was."""
        try:
            return self._score(fragment, part)
        except NoVariantError as error:
            # It loaded, and cannot run: what is compiled on the first call, say.
            return _told(LoadError(str(error)))
        except Exception as error:
            return _told(error)

    @property
    def _replica(self) -> Replica:
        return self._loading.result()

    def _score(self, fragment: Fragment, part: str) -> dict[str, Any]:
        started = perf_counter()
        try:
            table = self._reader.read(fragment)
        except CorruptFileError as error:
            if self._task.on_bad_file == "raise":
                raise
            return self._commit(fragment, part, *self._unreadable(fragment, str(error)), Stats(rows_in=fragment.rows))
        read_seconds = perf_counter() - started
        roles = as_roles(table, self._task.columns)
        replica = self._replica  # what cannot load has not begun the part
        if self._output.begin(part):
            scored = replica.score(roles)
        elif (done := self._output.committed_record(part)) and self._ours(done):
            return self._receipt(part, done, {}, Stats(rows_in=fragment.rows))  # a dead replica got that far
        else:
            with IsolatedReplica(self._settings) as isolated:
                scored = isolated.score(roles)
        if scored.rejected and self._task.on_error == "raise":
            row, reason = min(scored.rejected.items())
            raise RowError(
                f"row {fragment.start + row} of {redact(fragment.path)} cannot be scored: {reason}; "
                "correct it, or set sink.on_error: quarantine to go on without it"
            )
        scored.stats.read_seconds = read_seconds
        out = self._finished(table, scored)
        return self._commit(
            fragment, part, out, _quarantine(table, fragment, scored.rejected), scored.rejected, scored.stats
        )

    def _finished(self, table: pa.Table, scored: Scored) -> pa.Table:
        """Return the part: the carried columns of the rows that were answered, then the answers.

        Raises:
            AccountingError: not every row of the fragment is in it or rejected, once.
        """
        added = scored.added if len(scored.kept) else self._replica.family.schema.empty_table()
        accounted = np.sort(np.concatenate([scored.kept, np.fromiter(scored.rejected, np.int64)]))
        if added.num_rows != len(scored.kept) or not np.array_equal(accounted, np.arange(table.num_rows)):
            raise AccountingError(
                f"of {table.num_rows} rows, {len(scored.kept)} are scored and {len(scored.rejected)} rejected, with "
                f"{added.num_rows} answers: they must agree; please report this as a bug"
            )
        kept = pa.array(scored.kept)
        columns = [table.column(name).take(kept) for name in self._task.carried.names]
        return pa.Table.from_arrays([*columns, *added.columns], schema=pa.schema([*self._task.carried, *added.schema]))

    def _ours(self, record: dict[str, Any]) -> bool:
        """Tell whether a committed part is what this job would make; if not, committing it again says what differs."""
        return record.get("fingerprint") == self._task.fingerprint and record.get("artifact") in self._task.artifacts

    def _commit(
        self,
        fragment: Fragment,
        part: str,
        scored: pa.Table,
        quarantined: pa.Table | None,
        rejected: dict[int, str],
        stats: Stats,
    ) -> dict[str, Any]:
        started = perf_counter()
        record = self._output.commit(
            part,
            fragment,
            self._task.fingerprint,
            self._settings.artifact.key,
            scored,
            quarantined,
            variant=self._settings.variant,
            allowed=self._task.artifacts,
        )
        stats.commit_seconds = perf_counter() - started
        ours = record["variant"] == self._settings.variant
        return self._receipt(part, record, dict(Counter(rejected.values())) if ours else {}, stats)

    def _receipt(self, part: str, record: dict[str, Any], reasons: dict[str, int], stats: Stats) -> dict[str, Any]:
        stats.rows_out, stats.rows_quarantined = record["rows_out"], record["rows_quarantined"]
        stats.bytes_out = record["bytes"]
        return {
            "fragment": record["fragment"],
            "part": part,
            "artifact": record["artifact"],
            "variant": record.get("variant", self._settings.variant),  # older parts do not say
            "stats": stats.as_dict(),
            "reasons": reasons,
            "replica": f"{os.getpid()}@{self._node}",
            "node": self._node,
            "load_started": self._load_started,
            "load_seconds": self._replica.load_seconds,
            "committed": time.time(),
            "peak_rss_mb": peak_rss_mb(),
            "max_batch_tokens": self._replica.max_batch_tokens,
            "max_batch_size": self._replica.max_batch_size,
            **{name: record.get(name) for name in ("sha256", "stamp", "quarantine_file", "quarantine_bytes")},
        }

    def _unreadable(self, fragment: Fragment, reason: str) -> tuple[pa.Table, pa.Table, dict[int, str]]:
        """Quarantine a whole fragment whose file cannot be decoded: its rows are known by number only."""
        empty = pa.schema([*self._task.carried, *self._replica.family.schema]).empty_table()
        rejected = dict.fromkeys(range(fragment.rows), reason)
        nulls = pa.table({f.name: pa.nulls(fragment.rows, f.type) for f in self._task.carried})
        return empty, _located(nulls, fragment, rejected), rejected


def _own_settings(task: ScoringTask) -> ReplicaSettings:
    """Return the replica of this process: that of the second variant where there is one and Ray gave this no GPU."""
    return task.beside if task.beside and not _has_gpu() else task.settings


def _has_gpu() -> bool:
    import ray

    return bool(ray.get_runtime_context().get_accelerator_ids()["GPU"])


def _node_name() -> str:
    """Name the machine, and the Ray node where this is an actor: several may run on one machine."""
    ray = sys.modules.get("ray")
    here = socket.gethostname()
    if ray is None or not ray.is_initialized():
        return here
    return f"{here}/{ray.get_runtime_context().get_node_id()[:8]}"


def _told(error: Exception) -> dict[str, str]:
    return last_resort.told(error, f"a replica on {socket.gethostname()} failed: ")


def _load(settings: ReplicaSettings) -> Replica:
    _require_here(settings)
    try:
        return Replica(settings)
    except Exception as error:
        what = str(error) if isinstance(error, OptinferError) else f"{type(error).__name__}: {error}"
        raise LoadError(f"node {socket.gethostname()} cannot load the variant: {what}") from error


def _require_here(settings: ReplicaSettings) -> None:
    """Refuse a node that lacks the driver's files, by name."""
    for path in (settings.artifact.path, settings.model.path):
        if not os.path.isdir(path):
            raise OptinferError(
                f"node {socket.gethostname()} has no {path}: on a cluster of several machines, model.path and "
                "$OPTINFER_HOME must be on storage that all nodes share"
            )


def _quarantine(table: pa.Table, fragment: Fragment, rejected: dict[int, str]) -> pa.Table | None:
    return _located(table.take(pa.array(sorted(rejected))), fragment, rejected) if rejected else None


def _located(table: pa.Table, fragment: Fragment, rejected: dict[int, str]) -> pa.Table:
    rows = sorted(rejected)
    said = {
        "_file": pa.array([redact(fragment.path)] * len(rows), pa.string()),
        "_row": pa.array(np.array(rows, dtype=np.int64) + fragment.start),
        "_reason": pa.array([rejected[row] for row in rows], pa.string()),
    }
    # A source column may have one of these names, too: it stays, and comes first.
    return pa.Table.from_arrays([*table.columns, *said.values()], names=[*table.column_names, *said])
