"""The committed parts of an output: each is put once, conditionally, and the file IS the commit.

A fragment's quarantine file comes first, so that no part names one that is not there. Its name says which rows it
holds, not why: an attempt that comes after one that died between the two takes over the file it finds, whatever words
its own reasons have, and no row is quarantined twice. Where two attempts do not agree on the rows, each has a file of
its own, and who loses the commit removes his.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from optinfer.data.account import PART
from optinfer.data.output_listing import QUARANTINE
from optinfer.data.sinks import Sink, SinkKind
from optinfer.data.state import as_json, parquet_bytes
from optinfer.data.storage import ASIDE, Folder, each
from optinfer.errors import AccountingError, OutputConflictError, redact
from optinfer.records.part import Part
from optinfer.system.outages import failures

FOOTER_KEY = b"optinfer"
# Each time, somebody has put a file at the part's name that is none, or taken it away again.
_MOST_TRIES = 5
_log = logging.getLogger(__name__)


class ParquetSink(Sink):
    """The parts of one output folder, as any reader of Parquet finds them.

    Args:
        folder: opens the folder of a URL.
    """

    replaces = True

    def __init__(self, url: str, folder: Callable[[str], Folder] = Folder) -> None:
        self.folder = folder(url)

    @property
    def shown(self) -> str:
        return redact(self.folder.url)

    def put(
        self, name: str, part: Part, scored: pa.Table, quarantined: pa.Table | None, allowed: Collection[str] = ()
    ) -> Part:
        part, data = self._made(name, part, scored, quarantined)
        for _ in range(_MOST_TRIES):
            if (stamp := self.folder.create(name, data)) is not None:
                return replace(_measured(part, data), stamp=stamp)
            (winner,) = self.read([name])
            if winner is not None and _may_stay(winner, part):
                return self._give_way(name, part, winner, allowed)
            _log.warning("%s/%s is not the part of its fragment: it is removed and put again", self.shown, name)
            # Nobody asks here who holds the output: another may have put the right one by now, and that one stays.
            self.folder.remove(name, lambda data: not _may_stay(_record(data), part))
        raise OutputConflictError(
            f"{self.shown}/{name} is replaced by something else again and again; "
            "stop whoever writes there and run the same command again, or choose a new sink.path"
        )

    def rows(self, name: str, part: Part) -> tuple[pa.Table, pa.Table | None]:
        def read(file: str) -> pa.Table:
            data = self.folder.read(file)
            if data is None:
                raise AccountingError(f"{self.shown}/{file} went while it was read; run the same command again")
            return pq.ParquetFile(io.BytesIO(data)).read()

        return read(name), read(part.quarantine_file) if part.quarantine_file else None

    def replace(self, name: str, there: Part, part: Part, scored: pa.Table, quarantined: pa.Table | None) -> Part:
        """Put the new quarantine file first and remove the old one last: no part ever names one that is not there."""
        part, data = self._made(name, part, scored, quarantined)
        self.folder.put(name, data)
        if there.quarantine_file and there.quarantine_file != part.quarantine_file:
            self.folder.delete(there.quarantine_file)
        return _measured(part, data)

    def committed(self) -> set[str]:
        return set(self.folder.names(PART))

    def read(self, names: Sequence[str], whole: bool = True) -> list[Part | None]:
        return each(self.folder, self._whole if whole else self._peek, names)

    def finish(self, fingerprint: str, parts: pa.Table) -> None:
        """Leave the folder as it is: it is the table."""

    def _made(self, name: str, part: Part, scored: pa.Table, quarantined: pa.Table | None) -> tuple[Part, bytes]:
        """Set rows aside, and return the part that names them, with its bytes."""
        aside = quarantined.num_rows if quarantined is not None else 0
        part = replace(part, rows_out=scored.num_rows - part.rows_in_place, rows_quarantined=aside + part.rows_in_place)
        if quarantined is not None and aside:
            file, size = self._set_aside(name, quarantined)
            part = replace(part, quarantine_file=file, quarantine_bytes=size)
        return part, parquet_bytes(scored.replace_schema_metadata({FOOTER_KEY: as_json(part.footer)}))

    def _set_aside(self, part: str, quarantined: pa.Table) -> tuple[str, int]:
        """Put the quarantine file, or take over that of an earlier attempt at the same rows; return name and bytes."""
        rows = _rows(quarantined)
        stem, told = part.removesuffix(".parquet"), hashlib.sha256(rows.tobytes()).hexdigest()[:12]
        name, data = f"{QUARANTINE}/{stem}-{told}{ASIDE}", parquet_bytes(quarantined)
        if not self.folder.put_new(name, data):
            there = self.folder.read(name)
            if there is not None and _holds(there, rows):
                data = there
            else:
                self.folder.put(name, data)
        return name, len(data)

    def _give_way(self, name: str, part: Part, winner: Part, allowed: Collection[str]) -> Part:
        """Return the winner's part, and leave no quarantine file that no part names."""
        if not _stands_for(winner, part, allowed):
            raise OutputConflictError(
                f"{self.shown}/{name} was committed by another run with other content ({winner.footer}); "
                "nothing was overwritten: choose a new sink.path"
            )
        ours = part.quarantine_file
        if ours and ours != winner.quarantine_file:
            self.folder.delete(ours)
        return winner

    def _whole(self, name: str) -> Part | None:
        """Return a part as its commit returned it, but for the stamp; what is none is looked at twice.

        It will be removed: a byte that flipped on the way is no damaged part.
        """
        return self._looked_at(name) or self._looked_at(name)

    def _looked_at(self, name: str) -> Part | None:
        if (data := self.folder.read(name)) is None:
            return None
        part = _record(data)
        return None if part is None else _measured(part, data)

    def _peek(self, name: str) -> Part | None:
        try:
            found = self.folder.look(name, _part_in)
        except failures():  # the storage's, or Arrow's for some damaged footers
            found = None
        return found or self._whole(name)  # reading all of it tells which


def _may_stay(there: Part | None, part: Part) -> bool:
    """Tell whether what lies at a part's name is a part, and no copy of this job's part of another fragment."""
    return there is not None and (there.fingerprint != part.fingerprint or there.fragment == part.fragment)


def _record(data: bytes) -> Part | None:
    try:
        return _part_in(io.BytesIO(data))
    except OSError:  # Arrow raises it for some damaged footers, too
        return None


def _part_in(file: BinaryIO) -> Part | None:
    """Return what a part's footer says; None for a file that is cut short, empty, or not ours.

    A file that somebody wrote again from our rows keeps our record, and may have lost rows on the way.
    """
    try:
        metadata = pq.read_metadata(file)
        part = Part.of(json.loads((metadata.metadata or {})[FOOTER_KEY]))
    except (pa.ArrowException, KeyError, ValueError, TypeError):
        return None
    return part if part.rows == metadata.num_rows else None


def _holds(quarantine: bytes, rows: np.ndarray[Any, Any]) -> bool:
    """Tell whether a quarantine file is whole and holds these rows."""
    try:
        return np.array_equal(_rows(pq.ParquetFile(io.BytesIO(quarantine)).read()), rows)
    except (pa.ArrowException, OSError, IndexError):
        return False


def _rows(quarantined: pa.Table) -> np.ndarray[Any, Any]:
    """Return the numbers of quarantined rows; a source column may have that name, too, and comes first."""
    return np.asarray(quarantined.column(quarantined.schema.get_all_field_indices("_row")[-1]), dtype="<i8")


def _measured(part: Part, data: bytes) -> Part:
    return replace(part, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _stands_for(winner: Part, part: Part, allowed: Collection[str]) -> bool:
    """Tell whether a part that was committed first holds this fragment's answers.

    They are by the same variant, with as many rows, or by another variant of the same job.
    """
    if _counts(winner) == _counts(part):
        return True
    same = (winner.fragment, winner.fingerprint, winner.rows_in) == (part.fragment, part.fingerprint, part.rows_in)
    other = (winner.artifact, winner.variant) != (part.artifact, part.variant)
    return same and other and winner.artifact in allowed and winner.variant is not None


def _counts(part: Part) -> tuple[object, ...]:
    return (
        part.fragment,
        part.fingerprint,
        part.artifact,
        part.variant,
        part.rows_in,
        part.rows_out,
        part.rows_quarantined,
    )


sink = SinkKind(
    about="a folder of Parquet files",
    open=ParquetSink,
    check=lambda url, schema: None,  # `require_carried` has written one
)
