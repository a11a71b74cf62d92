"""The output folder: frozen job, committed parts, quarantine, manifest. Resume is a listing of it.

part-000012.parquet               the commit of fragment 12; its footer says which job and what was counted (sinks/)
_quarantine/part-000012-….pq      rows of fragment 12 that could not be scored, written before the part
_optinfer/job.json                the frozen job and its fingerprint; before anything runs (binding.py)
_optinfer/plan.pq                 the fragments; the paths of their files and partitions are in its schema's metadata
_optinfer/accounts/…              what is in the parts, without opening them (see account.py)
_optinfer/variant.json            the one artifact that fills this output; two where the job has placement.cpu_variant
_optinfer/attempts/…              parts begun in this run (see inference/isolation.py)
_optinfer/lease/…                 who is writing now (see lease.py); lock.json is for the version before
_optinfer/ended.json              how the last run ended, where that was not well
_optinfer/journals/RUN/…          the journal of each run, in pieces; `optinfer sync` brings it to MLflow
_optinfer/sketch.pq               measurements of some rows and answers (reference.py), where the job is watched
_optinfer/parts.pq                every part with its size and digest, when the job had ended (inventory.py)
_manifest.json, _SUCCESS          the account, written last

What is kept in `_optinfer` can be made again from the job and the parts, so a file of it that is gone or garbage is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.data import home_store, inventory
from optinfer.data.account import Accounts, Committed, as_table, committed
from optinfer.data.binding import Binding, read_record
from optinfer.data.fragments import Plan, part_name
from optinfer.data.lock import RunLock, give_free_of_the_dead
from optinfer.data.output_listing import QUARANTINE, Differences, Listing, differences, few, listed, written_again
from optinfer.data.sinks import DEFAULT, FINAL, SINKS
from optinfer.data.state import Attempts, as_json
from optinfer.data.storage import STATE, Folder, each, is_local
from optinfer.errors import AccountingError, ConfigError, OutputConflictError, redact
from optinfer.records.manifest import Manifest
from optinfer.records.part import Part
from optinfer.system import atomic

JOURNALS = f"{STATE}/journals"
# Parts of which a dead driver wrote no account are read whole, for their digest; more than it can have left so are not.
_READ_WHOLE = 600
# After so many, who deletes asks again whether the output is still his.
_DELETED_AT_ONCE = 100


class Output:
    """One job's output folder: what it holds, what it lacks, and its end.

    Attributes:
        sink: puts and reads its parts.
        binding: whose output it is.
        attempts: parts begun in this run.
    """

    def __init__(self, url: str, kind: str = DEFAULT) -> None:
        self.folder = Folder(url)
        self.sink = SINKS.get(kind).open(url)
        self.binding = Binding(self.folder, self.sink)
        self.attempts = Attempts(url)
        self._lock: RunLock | None = None

    @property
    def shown(self) -> str:
        return redact(self.folder.url)

    def require_replaceable(self) -> None:
        """Refuse to write rows of this kind of table again.

        Raises:
            ConfigError: its parts are final.
        """
        if not self.sink.replaces:
            raise ConfigError(FINAL)

    def held(self, say: Callable[[str], None], lock: RunLock | None = None) -> RunLock:
        """Return the lock that says who writes here; what only its holder may do asks it from then on.

        Args:
            lock: None makes one.
        """
        self._lock = lock or RunLock(self.folder, say)
        return self._lock

    def give_free_of_the_dead(self) -> None:
        """Take away a dead run's hold on this output, which it had finished."""
        give_free_of_the_dead(self.folder)

    def _require_held(self) -> None:
        """Refuse to go on where another run took this output: asked right before each write that only one may do."""
        if self._lock is not None:
            self._lock.require()

    def journal_copies(self, run_id: str) -> dict[str, Callable[[str, bytes], None]]:
        """Return where a run's journal is to be copied to, with what takes a piece of it."""
        return {"beside the output": partial(self.keep_journal, run_id), **home_store.journal(run_id)}

    def keep_journal(self, run_id: str, name: str, piece: bytes) -> None:
        """Put a piece of a run's journal: on a thread of its own, and after the end of the output, too."""
        at = f"{JOURNALS}/{run_id}/{name}"
        if is_local(self.folder.url):
            atomic.put(Path(self.folder.url, at), piece)  # not by the staging folder, which `finish` removes meanwhile
        else:
            self.folder.put(at, piece)

    def manifest(self) -> Manifest | None:
        """Return the manifest of a finished job, None while it is unfinished, or where the manifest is garbage."""
        if self.folder.read("_SUCCESS") is None:
            return None
        return read_record(self.folder, "_manifest.json", Manifest.of)

    def finished(self, fingerprint: str) -> Manifest | None:
        """Return the manifest where the job of this fingerprint is done already."""
        manifest, job = self.manifest(), self.binding.job()
        return manifest if manifest and job and job.fingerprint == fingerprint else None

    def damage(self, manifest: Manifest) -> tuple[Listing, Differences]:
        """Hold a finished output against what its manifest says of its parts: one listing."""
        return inventory.damage(self.folder, manifest)

    def intact(self, accounts: Accounts, total: int) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
        """Return a (fragments,) mask of the parts that need not be scored, and what is wrong: one listing.

        A run opens parts that no account names, and may find more of them damaged.
        """
        if (manifest := self.manifest()) is not None:
            listing, found = self.damage(manifest)
        else:
            listing = listed(self.folder, total)
            found = differences(listing, _latest(accounts.read()[0], listing.sizes), total)
            found = replace(found, orphans=())  # of fragments that are being made, or of parts that no account names
        there = listing.sizes > 0
        there[found.lost] = False
        return there, found.named()

    def resume(self, accounts: Accounts, plan: Plan) -> Committed:
        """Return what the committed parts hold: a listing, their accounts, and the footers of parts without one.

        Parts that are cut short, or not as they were committed, are removed: the names say which.

        Raises:
            AccountingError: the folder holds files that a reader would take for rows of this output.
            OutputConflictError: it holds a part of another job.
        """
        total = len(plan.fragments)
        listing, (told, dropped) = listed(self.folder, total), accounts.read()
        self._refuse(listing.foreign)
        known = _latest(told, listing.sizes)
        unknown = np.setdiff1d(listing.fragments, known.column("fragment").to_numpy())
        opened, unreadable = self._open(accounts.fingerprint, unknown, listing, plan)
        both = pa.concat_tables([known, opened])
        wrong = self._differences(listing, both, total)
        lost = np.union1d(wrong.lost, np.array(list(unreadable), dtype=np.int64))
        self.remove(lost, both, total)
        for name in dropped:
            self.folder.delete(name)
        known, opened = (_without(table, lost) for table in (known, opened))
        accounts.hold(known, opened)
        damaged = few((*wrong.reasons, *unreadable.values()))
        return committed(pa.concat_tables([known, opened]), damaged, dropped)

    def _open(
        self, fingerprint: str, fragments: np.ndarray[Any, Any], listing: Listing, plan: Plan
    ) -> tuple[pa.Table, dict[int, str]]:
        """Read the records of parts; return them as accounts, and what is wrong with the others, by fragment."""
        total, wrong, found = len(plan.fragments), {}, []
        names = [part_name(int(i), total) for i in fragments]
        parts = self.sink.read(names, whole=len(names) <= _READ_WHOLE)
        for index, name, part in zip(fragments.tolist(), names, parts, strict=True):
            rows = plan.fragments[index].rows if total else 0
            if part is None:
                wrong[index] = f"{name} ({listing.sizes[index]:,} bytes) is cut short, or not by optinfer"
            elif part.fingerprint != fingerprint:
                raise OutputConflictError(
                    f"{self.shown}/{name} is of another job (fingerprint {part.fingerprint}, this one "
                    f"{fingerprint}); choose a new sink.path, or move that part away"
                )
            elif (part.fragment, part.rows_in) != (index, rows):
                wrong[index] = f"{name} holds fragment {part.fragment}, {part.rows_in} rows"
            else:
                size = part.bytes if part.bytes is not None else int(listing.sizes[index])
                found.append(replace(part, bytes=size, stamp=int(listing.stamps[index])))
        return as_table(found), wrong

    def compare(self, accounts: Accounts, plan: Plan) -> Differences:
        """Hold the folder as it lies there now against what was committed.

        Raises:
            AccountingError: it holds files that a reader would take for rows of this output.
        """
        total, table = len(plan.fragments), accounts.table()
        found = self._differences(listed(self.folder, total), table, total)
        self._refuse(found.foreign)
        never = np.setdiff1d(np.arange(max(total, 1)), table.column("fragment").to_numpy())
        reasons = tuple(f"{part_name(index, total)} was never committed" for index in never.tolist())
        return replace(found, lost=np.union1d(found.lost, never), reasons=(*found.reasons, *reasons))

    def _differences(self, listing: Listing, table: pa.Table, total: int) -> Differences:
        """Hold a listing against accounts, and what was written again since against its digest."""
        found = differences(listing, table, total)
        if len(found.lost):  # nothing is removed on the word of one listing: a byte may flip on its way
            listing = listed(self.folder, total)
            found = differences(listing, table, total)
        suspects = table.filter(pa.array(np.isin(table.column("fragment").to_numpy(), written_again(listing, table))))
        names = [part_name(index, total) for index in suspects.column("fragment").to_pylist()]
        told = zip(suspects.column("fragment").to_pylist(), suspects.column("sha256").to_pylist(), strict=True)
        other = {
            index: f"{name} has other content than was written"
            for (index, digest), name, now in zip(told, names, self.sink.read(names), strict=True)
            if digest is not None and (now is None or digest != now.sha256) and index not in found.lost
        }
        reasons = {**dict(zip(found.lost.tolist(), found.reasons, strict=True)), **other}
        lost = sorted(reasons)
        return replace(found, lost=np.array(lost, dtype=np.int64), reasons=tuple(reasons[index] for index in lost))

    def _refuse(self, foreign: tuple[str, ...]) -> None:
        if foreign:
            raise AccountingError(
                f"{self.shown} holds Parquet files that are not of this output, and readers would take them for rows "
                f"of it: {', '.join(few(foreign))}; move them away and run the same command again (what is committed "
                "is kept)"
            )

    def remove(self, fragments: np.ndarray[Any, Any], parts: pa.Table, total: int) -> None:
        """Remove parts, so that they can be put again, and the quarantine files they name."""
        if not len(fragments):
            return
        # Where the whole folder went, none is there any more: asking for each would take hours on an object store.
        there = self.sink.committed() | {f"{QUARANTINE}/{name}" for name in self.folder.names(under=QUARANTINE)}
        lost = parts.filter(pa.array(np.isin(parts.column("fragment").to_numpy(), fragments)))
        names = {part_name(index, total) for index in fragments.tolist()}
        names |= set(lost.column("quarantine_file").drop_null().to_pylist())
        self.delete(sorted(names & there))

    def delete(self, names: Sequence[str]) -> None:
        """Delete files that are not what a reader should find; only the holder knows which these are."""
        for first in range(0, len(names), _DELETED_AT_ONCE):
            self._require_held()
            each(self.folder, self.folder.delete, names[first : first + _DELETED_AT_ONCE])

    def reopen(self) -> None:
        """Take back the word of a finished run whose parts no longer agree, before anything else is written."""
        self.delete(("_SUCCESS", "_manifest.json", inventory.INVENTORY_BEFORE))

    def commit_empty(self, plan: Plan, fingerprint: str, schema: pa.Schema) -> Part:
        """Commit one part without rows: an empty table gives an output with a schema, not one that readers refuse."""
        return self.sink.put(plan.part_name(0), Part(fragment=0, fingerprint=fingerprint, artifact=""),
                             schema.empty_table(), None)  # fmt: skip

    def finish(self, manifest: Manifest, accounts: Accounts, plan: Plan) -> Manifest:
        """Write sizes and digests of the parts, the manifest, the table, then `_SUCCESS`; the order is the promise."""
        parts = inventory.of(accounts.table(), len(plan.fragments))
        self._require_held()
        manifest = replace(manifest, parts=inventory.keep(self.folder, parts))
        self._require_held()
        self.folder.put("_manifest.json", as_json(manifest.as_dict()))
        self._require_held()
        self.sink.finish(accounts.fingerprint, parts)
        self.folder.keep(QUARANTINE, STATE)  # no power cut leaves it without what it vouches for
        self._require_held()
        self.folder.put("_SUCCESS", b"")
        self.folder.keep()
        self.folder.delete(f"{STATE}/staging")
        self.attempts.forget()
        return manifest


def _latest(told: pa.Table, sizes: np.ndarray[Any, Any]) -> pa.Table:
    """Return what accounts say of the parts that are listed, once each: of several the one with the listed size.

    Accounts of before sizes were kept are left out: their parts are opened.
    """
    told = told.filter(told.column("bytes").is_valid())
    fragments, size = (told.column(name).to_numpy() for name in ("fragment", "bytes"))
    within = np.flatnonzero((fragments >= 0) & (fragments < len(sizes)))
    within = within[sizes[fragments[within]] >= 0]
    order = within[np.lexsort((sizes[fragments[within]] != size[within], fragments[within]))]
    _, first = np.unique(fragments[order], return_index=True)
    return told.take(pa.array(order[first]))


def _without(table: pa.Table, fragments: np.ndarray[Any, Any]) -> pa.Table:
    return table.filter(pa.array(~np.isin(table.column("fragment").to_numpy(), fragments))) if len(fragments) else table
