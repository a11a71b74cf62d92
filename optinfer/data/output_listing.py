"""One listing of an output folder, with sizes, held against its plan and what was committed. No part is opened.

A million parts are two columns here: which fragments are there, and how many bytes each has. What lies in the folder
and belongs to nobody is of two kinds: a quarantine file that an attempt left which died or lost (ours, removed), and
Parquet files that readers of the folder would read as rows of this output (not ours: named, never removed).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from optinfer.data.fragments import part_digits, part_name
from optinfer.data.listing import SUFFIXES  # as others read this folder, too
from optinfer.data.storage import Folder

QUARANTINE = "_quarantine"
_OURS = re.compile(r"part-\d{6,}-[0-9a-f]{12}\.(pq|parquet)")
_MAGIC = b"PAR1"
_NAMED = 10  # a message names this many files, and counts the others
ABSENT = -1


@dataclass(frozen=True, eq=False)
class Listing:
    """What lies in an output.

    Attributes:
        sizes: (fragments,) bytes of each fragment's part, -1 where it is not there.
        stamps: (fragments,) what changes when a part is written again; 0 where it is not known.
        quarantined: columns `file` (as footers name it) and `bytes`.
        foreign: files that a reader would take for rows of this output, and no fragment has such a part.
    """

    sizes: np.ndarray[Any, Any]
    stamps: np.ndarray[Any, Any]
    quarantined: pa.Table
    foreign: tuple[str, ...]

    @property
    def fragments(self) -> np.ndarray[Any, Any]:
        """Return the fragments whose part is there, whatever it holds."""
        return np.flatnonzero(self.sizes != ABSENT)


@dataclass(frozen=True, eq=False)
class Differences:
    """What an output lacks, and what it has too much of.

    Attributes:
        lost: fragments whose part, or the quarantine file it names, is not there as it was committed; `reasons` say of
            each in words what was found.
        orphans: quarantine files of ours that no part names.
        foreign: files that are not of this output.
    """

    lost: np.ndarray[Any, Any]
    reasons: tuple[str, ...]
    orphans: tuple[str, ...]
    foreign: tuple[str, ...]

    def named(self) -> tuple[str, ...]:
        """Say all of it, in a few lines."""
        too_much = (*(f"{name} is named by no part" for name in self.orphans),
                    *(f"{name} is not of this output" for name in self.foreign))  # fmt: skip
        return (*few(self.reasons), *few(too_much))


def few(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Return the first lines, and how many more there are."""
    more = len(lines) - _NAMED
    return (*lines[:_NAMED], f"and {more:,} more") if more > 0 else lines


def listed(folder: Folder, total: int) -> Listing:
    """List the output of `total` fragments; that of an empty table has one part all the same."""
    sizes, stamps = np.full(max(total, 1), ABSENT, dtype=np.int64), np.zeros(max(total, 1), dtype=np.int64)
    is_part = re.compile(rf"part-(\d{{{part_digits(total)}}})\.parquet").fullmatch
    foreign: list[str] = []
    for name, size, stamp in folder.entries():
        found = is_part(name)
        if found and size is not None and (index := int(found[1])) < len(sizes):
            sizes[index], stamps[index] = size, stamp
        elif size is None:
            foreign += () if name.startswith(("_", ".")) else _below(folder, name)
        elif _is_read_by_others(folder, name, size):
            foreign.append(name)
    names, lengths = [], []
    for name, size, _ in folder.entries(QUARANTINE):
        if size is not None:
            names.append(f"{QUARANTINE}/{name}")
            lengths.append(size)
    quarantined = pa.table({"file": pa.array(names, pa.string()), "bytes": pa.array(lengths, pa.int64())})
    return Listing(sizes, stamps, quarantined, tuple(sorted(foreign)))


def _below(folder: Folder, under: str) -> Iterator[str]:
    """Yield the Parquet files in a folder that some readers would enter."""
    for name, size, _ in folder.entries(under):
        if size is None:
            yield from _below(folder, f"{under}/{name}")
        elif _is_read_by_others(folder, f"{under}/{name}", size):
            yield f"{under}/{name}"


def _is_read_by_others(folder: Folder, name: str, size: int) -> bool:
    """Tell whether a reader would take a file for rows: a glob by its suffix, pyarrow and Spark by what is in it.

    These two read whatever its name (`part-000001.parquet.bak` is a part twice), unless it begins with `_` or `.`.
    """
    if name.lower().endswith(SUFFIXES):
        return True
    if name.rpartition("/")[2].startswith(("_", ".")) or size < 2 * len(_MAGIC):
        return False

    def ends_as_parquet(file: BinaryIO) -> bool:
        file.seek(-len(_MAGIC), os.SEEK_END)
        return file.read() == _MAGIC

    try:
        return folder.look(name, ends_as_parquet)
    except FileNotFoundError:  # a reader finds nothing there either
        return False


def differences(listing: Listing, committed: pa.Table, total: int) -> Differences:
    """Hold a listing against what was committed.

    Args:
        committed: columns `fragment`, `bytes`, `quarantine_file` and `quarantine_bytes`; a null size is not known, and
            anything but an empty file will do. Parts of other fragments are not looked at.
    """
    fragments = committed.column("fragment").to_numpy()
    found, wanted = listing.sizes[fragments], _known(committed.column("bytes"))
    wrong = np.flatnonzero(np.where(wanted == ABSENT, found <= 0, found != wanted))
    reasons = {int(fragments[i]): _part(part_name(int(fragments[i]), total), found[i], wanted[i]) for i in wrong}
    reasons |= _quarantine_reasons(listing, committed, total, reasons)
    lost = np.array(sorted(reasons), dtype=np.int64)
    orphans, strange = _unnamed(listing, committed)
    return Differences(lost, tuple(reasons[i] for i in lost.tolist()), orphans, (*listing.foreign, *strange))


def written_again(listing: Listing, committed: pa.Table) -> np.ndarray[Any, Any]:
    """Return the fragments whose part has the size that was put, and was written again since: content may differ."""
    fragments = committed.column("fragment").to_numpy()
    size, stamp = _known(committed.column("bytes")), committed.column("stamp").fill_null(0).to_numpy()
    now = listing.stamps[fragments]
    return fragments[(listing.sizes[fragments] == size) & (stamp != 0) & (now != 0) & (now != stamp)]


def _known(sizes: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    return np.asarray(sizes.fill_null(ABSENT).to_numpy())


def _part(name: str, found: int, wanted: int) -> str:
    if found == ABSENT:
        return f"{name} is missing"
    return f"{name} has {found:,} bytes" + (f", {wanted:,} were written" if wanted != ABSENT else "")


def _quarantine_reasons(listing: Listing, committed: pa.Table, total: int, known: dict[int, str]) -> dict[int, str]:
    """Return what is wrong with quarantine files, by fragment."""
    naming = committed.filter(committed.column("quarantine_file").is_valid())
    at = pc.index_in(naming.column("quarantine_file"), listing.quarantined.column("file").combine_chunks())
    found = _known(listing.quarantined.column("bytes").take(at))
    wanted, fragments = _known(naming.column("quarantine_bytes")), naming.column("fragment").to_numpy()
    wrong = np.flatnonzero(np.where(wanted == ABSENT, found <= 0, found != wanted))
    return {
        int(
            fragments[i]
        ): f"{part_name(int(fragments[i]), total)} is there, but its quarantine file is not as written: "
        + _part(naming.column("quarantine_file")[int(i)].as_py(), found[i], wanted[i])
        for i in wrong
        if int(fragments[i]) not in known
    }


def _unnamed(listing: Listing, committed: pa.Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the quarantine files that no part names: ours, and others."""
    files = listing.quarantined.column("file")
    named = pc.is_in(files, committed.column("quarantine_file").combine_chunks())
    left = files.filter(pc.invert(named)).to_pylist()
    ours = tuple(name for name in left if _OURS.fullmatch(name.removeprefix(f"{QUARANTINE}/")))
    return ours, tuple(name for name in left if name not in set(ours))
