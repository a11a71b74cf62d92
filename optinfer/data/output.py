"""The output folder: frozen job, committed parts, quarantine, manifest. Resume is a listing of it.

part-000012.parquet               the commit of fragment 12; its footer says which job and what was counted
_quarantine/part-000012-….parquet rows of fragment 12 that could not be scored, written before the part
_optinfer/job.json                the frozen job and its fingerprint; written once, before anything runs
_optinfer/plan.parquet            the fragments; the paths of their files and partitions are in its schema's metadata
_optinfer/accounts/…              what is in the parts, without opening them (see account.py)
_optinfer/variant.json            the one artifact that fills this output; two where the job has placement.cpu_variant
_optinfer/attempts/…              parts begun in this run (see inference/isolation.py)
_optinfer/lock.json               who is writing now (see lock.py)
_manifest.json, _SUCCESS          the account, written last
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from optinfer.data.account import PART, Accounts, Committed, committed, from_footers, index_of
from optinfer.data.fragments import Fragment, Plan
from optinfer.data.storage import STATE, Folder, is_local
from optinfer.errors import OutputConflictError, redact

FOOTER_KEY = b"optinfer"
_ATTEMPTS = f"{STATE}/attempts"
_FOOTER_THREADS = 16


class Output:
    """One job's output folder."""

    def __init__(self, url: str) -> None:
        self.folder = Folder(url)

    @property
    def shown(self) -> str:
        return redact(self.folder.url)

    def freeze(self, job: dict[str, Any], plan: Plan) -> bool:
        """Bind this folder to a job; return True where it was bound to the same fingerprint before.

        A folder without a committed part may be bound anew.

        Args:
            job: `fingerprint` and the `fields` it was made of.
            plan: written beside the job.

        Raises:
            OutputConflictError: the folder holds another job's output, or Parquet files of unknown origin.
        """
        known = self.job()
        if known is None:
            if self.folder.names(r".*\.parquet"):
                raise OutputConflictError(
                    f"{self.shown} holds Parquet files that optinfer did not write; choose an empty sink.path"
                )
            self.folder.put(f"{STATE}/plan.parquet", _plan_bytes(plan))
            if self.folder.put_new(f"{STATE}/job.json", _json(job)):
                return False
            known = self.job() or {}
        if known.get("fingerprint") != job["fingerprint"]:
            if not self.folder.names(PART):  # refused by its gate, say: there is nothing here to protect
                self.folder.put(f"{STATE}/plan.parquet", _plan_bytes(plan))
                self.folder.put(f"{STATE}/job.json", _json(job))
                return False
            raise OutputConflictError(
                f"{self.shown} belongs to another job; it differs in:\n{_differences(known['fields'], job['fields'])}\n"
                "choose a new sink.path, or delete the folder to score everything again"
            )
        return True

    def bound_variant(self) -> str | None:
        """Return the variant that committed rows here, None while none did."""
        bound = self._bound()
        return str(bound["variant"]) if bound else None

    def bound_beside(self) -> str | None:
        """Return the second variant that committed rows here, None where there is none."""
        bound = self._bound()
        return str(bound["beside"]["variant"]) if bound and "beside" in bound else None

    def _bound(self) -> dict[str, Any] | None:
        bound = self._json_file(f"{STATE}/variant.json")
        return bound if bound and self.folder.names(PART) else None

    def bind_variant(self, chosen: dict[str, Any]) -> None:
        """Fix what fills this output, so that no resume adds the rows of another artifact.

        Raises:
            OutputConflictError: an earlier attempt committed rows with another artifact.
        """
        if self.folder.put_new(f"{STATE}/variant.json", _json(chosen)):
            return
        bound = json.loads(self.folder.read(f"{STATE}/variant.json") or b"{}")
        if bound != chosen and not self.folder.names(PART):
            self.folder.put(f"{STATE}/variant.json", _json(chosen))
        elif bound != chosen:
            raise OutputConflictError(
                f"{self.shown} is partly filled by {_named(bound)}, this run would use {_named(chosen)}: another "
                "machine, library version or fallback; resume where it was started, or choose a new sink.path"
            )

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

    def job(self) -> dict[str, Any] | None:
        return self._json_file(f"{STATE}/job.json")

    def manifest(self) -> dict[str, Any] | None:
        """Return the manifest of a finished job, None while it is unfinished."""
        return self._json_file("_manifest.json") if self.folder.read("_SUCCESS") is not None else None

    def finished(self, fingerprint: str) -> dict[str, Any] | None:
        """Return the manifest where the job of this fingerprint is done already."""
        manifest, job = self.manifest(), self.job()
        return manifest if manifest and job and job["fingerprint"] == fingerprint else None

    def planned_fragments(self) -> int:
        with self.folder.open(f"{STATE}/plan.parquet") as file:
            return int(pq.read_metadata(file).num_rows)

    def committed(self) -> set[str]:
        """Return the names of the committed parts: one listing."""
        return set(self.folder.names(PART))

    def resume(self, accounts: Accounts) -> Committed:
        """Return what the committed parts hold: a listing, their accounts, and the footers of parts without one."""
        names = self.folder.names(PART)
        listed = np.fromiter(map(index_of, names), dtype=np.int64, count=len(names))
        known = accounts.read()
        fragments = known.column("fragment").to_numpy()
        _, first = np.unique(fragments, return_index=True)
        counted = known.take(pa.array(first[np.isin(fragments[first], listed)]))
        unknown = np.flatnonzero(~np.isin(listed, counted.column("fragment").to_numpy()))
        opened = from_footers(self.footers(names[i] for i in unknown))
        return committed(pa.concat_tables([counted, opened]))

    def begin(self, part: str) -> bool:
        """Mark that a part is being made; return False where an attempt of this run began it and did not end."""
        return self.folder.put_new(f"{_ATTEMPTS}/{part}", b"begun")

    def forget_attempts(self) -> None:
        """Start a run with a clean slate: what an earlier run left half done says nothing about its rows."""
        self.folder.delete(_ATTEMPTS)

    def commit(
        self,
        plan_name: str,
        fragment: Fragment,
        fingerprint: str,
        artifact: str,
        scored: pa.Table,
        quarantined: pa.Table | None,
        variant: str | None = None,
        allowed: Collection[str] = (),
    ) -> dict[str, Any]:
        """Put the fragment's part, once; return its footer record (the winner's, where another was first).

        Args:
            artifact, variant: what scored the rows.
            allowed: artifacts whose answers may be there instead: they need not quarantine the same rows.

        Raises:
            OutputConflictError: the part exists and was made from another fingerprint, by an artifact that is not
                allowed, or by this one with other counts.
        """
        record: dict[str, Any] = {
            "fragment": fragment.index,
            "fingerprint": fingerprint,
            "artifact": artifact,
            "variant": variant,
            "rows_in": fragment.rows,
            "rows_out": scored.num_rows,
            "rows_quarantined": quarantined.num_rows if quarantined is not None else 0,
            "quarantine_file": None,
        }
        if quarantined is not None and quarantined.num_rows:
            data = _parquet_bytes(quarantined)
            stem = plan_name.removesuffix(".parquet")
            record["quarantine_file"] = f"_quarantine/{stem}-{hashlib.sha256(data).hexdigest()[:12]}.parquet"
            self.folder.put(record["quarantine_file"], data)
        data = _parquet_bytes(scored.replace_schema_metadata({FOOTER_KEY: _json(record)}))
        if not self.folder.put_new(plan_name, data):
            winner = self.footer(plan_name)
            if _stands_for(winner, record, allowed):
                return self._give_way(plan_name, record["quarantine_file"])
            if {k: winner.get(k) for k in record} != record:
                raise OutputConflictError(
                    f"{self.shown}/{plan_name} was committed by another run with other content ({winner}); "
                    "nothing was overwritten: choose a new sink.path"
                )
        return {**record, "bytes": len(data)}

    def _give_way(self, part: str, quarantine_file: str | None) -> dict[str, Any]:
        """Return the winner's record, and leave no quarantine file that no part names."""
        winner = self.committed_record(part)
        assert winner is not None, "it was there"
        if quarantine_file and quarantine_file != winner["quarantine_file"]:
            self.folder.delete(quarantine_file)
        return winner

    def commit_empty(self, plan: Plan, fingerprint: str, schema: pa.Schema) -> None:
        """Commit one part without rows: an empty table gives an output with a schema, not one that readers refuse."""
        self.commit(plan.part_name(0), Fragment(0, "", 0, 0), fingerprint, "", schema.empty_table(), None)

    def footer(self, part: str) -> dict[str, Any]:
        """Return what a part's footer says of its fragment."""
        with self.folder.open(part) as file:
            metadata = pq.read_schema(file).metadata or {}
        if FOOTER_KEY not in metadata:
            raise OutputConflictError(f"{self.shown}/{part} was not written by optinfer; choose a new sink.path")
        record: dict[str, Any] = json.loads(metadata[FOOTER_KEY])
        return record

    def committed_record(self, part: str) -> dict[str, Any] | None:
        """Return the record of a part as its commit returned it, None where it is not committed."""
        try:
            with self.folder.open(part) as file:
                size = file.seek(0, io.SEEK_END)
            return {**self.footer(part), "bytes": size}
        except FileNotFoundError:
            return None

    def footers(self, parts: Iterable[str]) -> list[dict[str, Any]]:
        wanted = sorted(parts)
        if is_local(self.folder.url):  # threads would wait for each other's Python, not for the disk
            return [self.footer(part) for part in wanted]
        with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
            return list(pool.map(self.footer, wanted))

    def finish(self, manifest: dict[str, Any]) -> None:
        """Write the manifest, then `_SUCCESS`; the order is the promise."""
        self.folder.put("_manifest.json", _json(manifest))
        self.folder.put("_SUCCESS", b"")
        self.folder.delete(f"{STATE}/staging")
        self.forget_attempts()

    def _json_file(self, name: str) -> dict[str, Any] | None:
        data = self.folder.read(name)
        return None if data is None else json.loads(data)


def _stands_for(winner: dict[str, Any], record: dict[str, Any], allowed: Collection[str]) -> bool:
    """Tell whether a part that was committed first is the same fragment's, by another variant of the same job."""
    same = all(winner.get(k) == record[k] for k in ("fragment", "fingerprint", "rows_in"))
    made, ours = ((of.get("artifact"), of.get("variant")) for of in (winner, record))
    return same and made != ours and made[0] in allowed and made[1] is not None


def _named(identity: dict[str, Any]) -> str:
    """Name what fills an output: one variant, or two."""
    first = f"{identity['variant']} (artifact {identity['artifact']})"
    return f"{first} and {_named(identity['beside'])}" if "beside" in identity else first


def fingerprint(fields: dict[str, Any]) -> str:
    return hashlib.sha256(_json(fields)).hexdigest()[:16]


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, default=str).encode()


def _parquet_bytes(table: pa.Table) -> bytes:
    """Build the file in memory: a writer that dies half way leaves nothing behind."""
    # Numbers out of a model hardly repeat: a dictionary of them takes five times as long and a third more room.
    repeating = [f.name for f in table.schema if not (pa.types.is_nested(f.type) or pa.types.is_floating(f.type))]
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", use_dictionary=repeating or False)
    return sink.getvalue()


def _plan_bytes(plan: Plan) -> bytes:
    cuts = plan.fragments
    files = [
        {"path": path, "partition": {name: value for name, value, _ in partition}}
        for path, partition in zip(cuts.paths, cuts.partitions, strict=True)
    ]
    columns = {"file": cuts.file, "start": cuts.start, "stop": cuts.stop}
    return _parquet_bytes(pa.table(columns, metadata={"files": json.dumps(files, default=str)}))


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> str:
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            nested = _differences(before, after, f"{prefix}{key}.")
            lines += [nested] if nested else []
        elif before != after:
            lines.append(f"  {prefix}{key}: {_short(before)} there, {_short(after)} here")
    return "\n".join(lines)


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 120 else text[:117] + "..."
