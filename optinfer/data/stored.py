"""The rows of a committed part, and which row of its fragment each is: what is needed to find where a row came from."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from optinfer.data.fragments import Fragment, Fragments, Plan
from optinfer.data.in_place import COLUMN, REASON
from optinfer.data.output import Output
from optinfer.errors import AccountingError
from optinfer.records.part import Part

Rows = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class StoredPart:
    """A fragment as it is stored.

    Attributes:
        rows: of the part, with or without an answer.
        places: (rows,) the row of the fragment that each is.
        aside: quarantined rows, with the columns that were kept of them; None where there are none.
        aside_places: (aside,) the row of the fragment that each of these is.
        no_answer: row of the fragment -> why it has none.
    """

    name: str
    made: Part
    rows: pa.Table
    places: Rows
    aside: pa.Table | None
    aside_places: Rows
    no_answer: Mapping[int, str]

    @property
    def answered(self) -> Rows:
        """(rows,) mask of the rows that have an answer."""
        return ~np.isin(self.places, np.fromiter(self.no_answer, np.int64, len(self.no_answer)))


def read_part(output: Output, name: str, start: int, on_error: str) -> StoredPart:
    """Read a part with its quarantined rows.

    Args:
        start: of its fragment, in the file that it is of.
        on_error: the job's; with `column` rows without an answer are among the others, with the reason beside them.

    Raises:
        AccountingError: it is gone, or none any more.
    """
    made, rows = output.sink.read([name], whole=False)[0], _read(output, name)
    if made is None:
        raise AccountingError(f"{output.shown}/{name} is no part of an output any more; run the job again")
    aside, no_answer, aside_places = None, dict[int, str](), np.array([], dtype=np.int64)
    if made.quarantine_file:
        # A source column may have one of these names, too, and comes first.
        aside = _read(output, made.quarantine_file)
        number, reason = (aside.schema.get_all_field_indices(column)[-1] for column in ("_row", "_reason"))
        aside_places = np.asarray(aside.column(number).to_numpy(), dtype=np.int64) - start
        no_answer = dict(zip(aside_places.tolist(), aside.column(reason).to_pylist(), strict=True))
    places = np.setdiff1d(np.arange(made.rows_in), aside_places)
    if on_error == COLUMN:
        reasons = rows.column(REASON).to_pylist()
        no_answer |= {int(at): why for at, why in zip(places, reasons, strict=True) if why is not None}
    return StoredPart(name, made, rows, places, aside, aside_places, no_answer)


def _read(output: Output, name: str) -> pa.Table:
    if (data := output.folder.read(name)) is None:
        raise AccountingError(f"{output.shown}/{name} is gone; run the job again, which scores what is lost")
    return pq.ParquetFile(io.BytesIO(data)).read()


@dataclass(frozen=True, eq=False)
class SourceNow:
    """The table that an output was scored from, as it lies there now.

    Attributes:
        frozen: the fragments of the output.
        plan: of today; None where there is no table to plan.
        wrong: file -> what is wrong with it: its rows cannot be read as they were.
    """

    frozen: Fragments
    plan: Plan | None
    wrong: Mapping[str, str]

    def fragment(self, index: int) -> Fragment | None:
        """Return a fragment to read, None where its file is not what it was."""
        planned = self.frozen[index]
        if self.plan is None or planned.path in self.wrong:
            return None
        now, at = self.plan.fragments, self._places[planned.path]
        file, cast = now.files[at], now.casts[at]
        return Fragment(
            index, planned.path, planned.start, planned.stop, now.partitions[at], file.size, file.version, cast
        )

    @property
    def readable(self) -> Rows:
        """(fragments,) indices of those whose file is what it was."""
        sound = np.array([path not in self.wrong for path in self.frozen.paths], dtype=bool)
        return np.flatnonzero(sound[self.frozen.file])

    @cached_property
    def _places(self) -> dict[str, int]:
        return {path: at for at, path in enumerate(self.plan.fragments.paths)} if self.plan else {}

    def lost(self) -> Iterator[tuple[str, str, int]]:
        """Yield file, what is wrong with it, and how many rows of the output are of it."""
        rows = self.frozen.stop - self.frozen.start
        for at, path in enumerate(self.frozen.paths):
            if path in self.wrong:
                yield path, self.wrong[path], int(rows[self.frozen.file == at].sum())


def source_now(frozen: Fragments, today: Plan | str, same_files: bool) -> SourceNow:
    """Hold the files that fragments were cut from against those that are there now.

    Args:
        today: the table, planned anew, or why it cannot be.
        same_files: all files together are what they were: for outputs that do not say so of each.
    """
    if isinstance(today, str):
        return SourceNow(frozen, None, dict.fromkeys(frozen.paths, f"cannot be read: {today}"))
    there = dict(zip(today.fragments.paths, today.fragments.files, strict=True))
    then = {file.path: file for file in frozen.files}
    wrong = {}
    for path in frozen.paths:
        now, before = there.get(path), then.get(path)
        if now is None:
            wrong[path] = "is gone"
        elif before is None and not same_files:
            wrong[path] = "may have changed: files of the table did, and this output does not say which"
        elif before is not None and (before.size, before.version) != (now.size, now.version):
            wrong[path] = (
                f"changed since ({before.size:,} bytes, version {before.version}; now {now.size:,}, {now.version})"
            )
    return SourceNow(frozen, today, wrong)
