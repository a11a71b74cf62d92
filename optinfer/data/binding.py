"""Whose output a folder is: the frozen job, its plan, and the one artifact (or two) that may fill it.

Frozen before anything runs, so that no resume mixes jobs or variants. All of it can be made again from the job and
from the footers of the parts: what is gone or garbage is, and only what contradicts the parts is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from optinfer.data.account import PART, Committed
from optinfer.data.fragments import Fragments, Plan, SourceFile
from optinfer.data.sinks import Sink
from optinfer.data.state import as_json, parquet_bytes
from optinfer.data.storage import ASIDE, ASIDE_BEFORE, STATE, Folder
from optinfer.errors import OutputConflictError, redact
from optinfer.records.binding import Bound, FrozenJob
from optinfer.records.record import decoded

_JOB, _VARIANT = f"{STATE}/job.json", f"{STATE}/variant.json"
_PLAN, _PLAN_BEFORE = (f"{STATE}/plan{suffix}" for suffix in (ASIDE, ASIDE_BEFORE))
R = TypeVar("R")
_is_part = re.compile(PART).fullmatch


class Binding:
    """What one output is bound to."""

    def __init__(self, folder: Folder, sink: Sink) -> None:
        self._folder, self._sink = folder, sink
        self._state: dict[str, bytes] = {}

    @property
    def shown(self) -> str:
        return redact(self._folder.url)

    def freeze(self, job: FrozenJob, plan: Plan) -> bool:
        """Bind this folder to a job; return True where it was bound to the same fingerprint before.

        A folder without a committed part may be bound anew. One with parts whose frozen job is gone or garbage is
        bound to what their footers say.

        Args:
            plan: written beside the job.

        Raises:
            OutputConflictError: the folder holds another job's output, or Parquet files of unknown origin.
        """
        known = self.job() or self._job_of_the_parts(job)
        again = known is not None and known.fingerprint == job.fingerprint
        if known is not None and not again and self._has_parts():  # else it was refused by its gate, say
            raise OutputConflictError(
                f"{self.shown} belongs to another job; it differs in:\n{_differences(known.fields, job.fields)}\n"
                "choose a new sink.path, or delete the folder to score everything again"
            )
        if not again or self.planned_fragments() != len(plan.fragments):
            self._keep(_PLAN, parquet_bytes(_plan_table(plan)))
            if known is not None:
                self._folder.delete(_PLAN_BEFORE)
        if not again or self.job() is None:
            self._keep(_JOB, as_json(job.as_dict()))
        for name in (self._plan()[0], _JOB):
            self._state[name] = self._folder.read(name) or self._state.get(name, b"")
        return again

    def _job_of_the_parts(self, job: FrozenJob) -> FrozenJob | None:
        """Return the job where its frozen record is lost and the parts are its own, None where there is no part.

        Raises:
            OutputConflictError: there are Parquet files, and they are not.
        """
        found = self._folder.names(r".*\.parquet")
        if not found:
            return None
        parts = (self._sink.read([name], whole=False)[0] for name in filter(_is_part, found))
        part = next(filter(None, parts), None)
        if part is None:
            raise OutputConflictError(
                f"{self.shown} holds Parquet files that optinfer did not write; choose an empty sink.path"
            )
        if part.fingerprint != job.fingerprint:
            raise OutputConflictError(
                f"{self.shown}/{_JOB} is missing or cannot be read, and the parts beside it are of another job "
                f"(fingerprint {part.fingerprint}, this one {job.fingerprint}); "
                "choose a new sink.path, or put that file back"
            )
        return job

    def _keep(self, name: str, data: bytes) -> None:
        self._folder.put(name, data)
        self._state[name] = data

    def _has_parts(self) -> bool:
        return any(_is_part(entry.name) for entry in self._folder.entries())

    def bound_variants(self) -> tuple[str, ...]:
        """Return the variants that commit rows here, pool by pool; none while none did, or none is known."""
        return tuple(one.variant for one in self.bound())

    def bound(self) -> tuple[Bound, ...]:
        """Return what commits rows here, pool by pool; none while none did, or none is known."""
        return tuple(self._bound() or ())

    def bound_arms(self) -> tuple[str, ...]:
        """Return the variants of an experiment's further arms that commit rows here, as `bound_variants` does."""
        bound = self._bound()
        return tuple(one.variant for one in bound.arms) if bound else ()

    def _bound(self) -> Bound | None:
        bound = read_record(self._folder, _VARIANT, partial(decoded, Bound))
        return bound if bound and self._has_parts() else None

    def bind_variant(self, chosen: Bound, found: Committed | None = None) -> None:
        """Fix what fills this output, so that no resume adds the rows of another artifact.

        Args:
            found: what is committed; it decides where the record of what is bound is gone or garbage.

        Raises:
            OutputConflictError: an earlier attempt committed rows with another artifact.
        """
        bound = read_record(self._folder, _VARIANT, partial(decoded, Bound))
        if bound is None and found is not None:
            self.require_artifacts(chosen.artifacts, found)
        elif bound is not None and not bound.agrees(chosen) and self._has_parts():
            raise OutputConflictError(
                f"{self.shown} is partly filled by {bound.named}, this run would use {chosen.named}: another "
                "machine, library version or fallback; resume where it was started, or choose a new sink.path"
            )
        if bound is None or not bound.agrees(chosen):
            self._folder.put(_VARIANT, as_json(chosen.as_dict()))
        self._state[_VARIANT] = self._folder.read(_VARIANT) or as_json(chosen.as_dict())

    def require_artifacts(self, allowed: Collection[str], found: Committed) -> None:
        """Refuse parts that another artifact made.

        Raises:
            OutputConflictError: there is one, committed late by a variant that gave way to this one.
        """
        if strange := sorted(found.artifacts - set(allowed)):
            raise OutputConflictError(
                f"{self.shown} holds fragments by artifact {strange[0]}, this run uses {' and '.join(allowed)}: "
                "no output mixes in another; choose a new sink.path"
            )

    def job(self) -> FrozenJob | None:
        """Return the frozen job, None where there is none, or garbage."""
        return read_record(self._folder, _JOB, partial(decoded, FrozenJob))

    def planned_fragments(self) -> int | None:
        """Return how many fragments were planned, None where the frozen plan is gone or garbage."""
        try:
            return int(pq.read_metadata(io.BytesIO(self._plan()[1])).num_rows)
        except (pa.ArrowException, OSError):
            return None

    def planned(self) -> Fragments | None:
        """Return the planned fragments, None where the frozen plan is gone or garbage.

        Their partitions and types are not kept; nor, by earlier versions, their files' sizes and versions.
        """
        try:
            plan = pq.read_table(io.BytesIO(self._plan()[1]))
            told = json.loads(plan.schema.metadata[b"files"])
            sized = [one for one in told if "version" in one]
            return Fragments(
                paths=tuple(one["path"] for one in told),
                partitions=((),) * len(told),
                file=plan["file"].to_numpy(),
                start=plan["start"].to_numpy(),
                stop=plan["stop"].to_numpy(),
                files=tuple(SourceFile(one["path"], one["size"], one["version"], 0) for one in sized),
                casts=("",) * len(sized),
            )
        except (pa.ArrowException, OSError, ValueError, LookupError, TypeError):
            return None

    def planned_rows(self) -> np.ndarray[Any, Any] | None:
        """Return the (fragments,) rows of each planned fragment, None where the frozen plan is gone or garbage."""
        try:
            plan = pq.read_table(io.BytesIO(self._plan()[1]), columns=["start", "stop"])
        except (pa.ArrowException, OSError):
            return None
        return np.asarray(plan["stop"].to_numpy() - plan["start"].to_numpy())

    def _plan(self) -> tuple[str, bytes]:
        """Return the frozen plan's name and bytes, b"" where it is gone; the version before named it otherwise."""
        for name in (_PLAN, _PLAN_BEFORE):
            if data := self._folder.read(name):
                return name, data
        return _PLAN, b""

    def put_back_state(self) -> tuple[str, ...]:
        """Put back what was bound here where it is gone or garbage; return the names.

        Raises:
            OutputConflictError: another job has bound the folder meanwhile.
        """
        job = self.job()
        if job and job.fingerprint != json.loads(self._state[_JOB])["fingerprint"]:
            raise OutputConflictError(
                f"{self.shown} was emptied and given to another job while this one ran; choose a new sink.path"
            )
        gone = tuple(name for name, data in self._state.items() if self._folder.read(name) != data)
        for name in gone:
            self._folder.put(name, self._state[name])
        return gone


def read_record(folder: Folder, name: str, make: Callable[[object], R]) -> R | None:
    """Return the record in a state file, None where it is gone, or not what was written there."""
    try:
        return make(json.loads(folder.read(name) or b""))
    except ValueError:
        return None


def fingerprint(fields: Mapping[str, object]) -> str:
    return hashlib.sha256(as_json(fields)).hexdigest()[:16]


def _plan_table(plan: Plan) -> pa.Table:
    cuts = plan.fragments
    known: list[dict[str, object]] = [{"size": file.size, "version": file.version} for file in cuts.files]
    files = [
        {"path": path, "partition": {name: value for name, value, _ in partition}, **at}
        for path, partition, at in zip(cuts.paths, cuts.partitions, known or [{}] * len(cuts.paths), strict=True)
    ]
    columns = {"file": cuts.file, "start": cuts.start, "stop": cuts.stop}
    return pa.table(columns, metadata={"files": json.dumps(files, default=str)})


def _differences(old: Mapping[str, object], new: Mapping[str, object], prefix: str = "") -> str:
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            nested = _differences(before, after, f"{prefix}{key}.")
            lines += [nested] if nested else []
        elif before != after:
            lines.append(f"  {prefix}{key}: {_short(before)} there, {_short(after)} here")
    return "\n".join(lines)


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 120 else text[:117] + "..."
