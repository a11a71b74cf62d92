"""The sketch of an output (`_optinfer/sketch.pq`), and the one that a job's next outputs are held against.

The latter is kept in the home, which may be a store (home_store.py), by the job's name and what was asked of which
model: the first output that finishes is put there and stays, until a person puts another in its place.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from optinfer.data import home_store
from optinfer.data.storage import STATE, Folder
from optinfer.records.record import Record, decoded
from optinfer.system import home

_NAME = f"{STATE}/sketch.pq"
_KEY = b"optinfer"
# Sketches that are made otherwise are not comparable.
_VERSION = 1
# So many runs' speeds are remembered.
_RUNS = 30


@dataclass(frozen=True, kw_only=True)
class About(Record):
    """What a sketch is of; it is compared with sketches of the same `subject` alone.

    Attributes:
        subject: the model and its settings, and what of the table it is given.
    """

    job: str
    run_id: str
    output: str
    subject: Mapping[str, object]
    version: int = _VERSION

    @property
    def key(self) -> str:
        told = json.dumps([self.job, self.subject, self.version], sort_keys=True, default=str)
        return hashlib.sha256(told.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Kept:
    """A sketch with what it is of."""

    about: About
    rows: pa.Table

    def to_bytes(self) -> bytes:
        told = json.dumps(self.about.as_dict(), default=str).encode()
        sink = io.BytesIO()
        pq.write_table(self.rows.replace_schema_metadata({_KEY: told}), sink, compression="zstd")
        return sink.getvalue()

    @classmethod
    def of(cls, data: bytes) -> Kept:
        """Return the sketch in a file.

        Raises:
            ValueError: it is none.
        """
        try:
            rows = pq.read_table(io.BytesIO(data))
            about = decoded(About, json.loads((rows.schema.metadata or {})[_KEY]))
        except (pa.ArrowException, OSError, KeyError) as error:
            raise ValueError(f"no sketch: {error}") from error
        return cls(about, rows)


def subject_of(fields: Mapping[str, object]) -> dict[str, object]:
    """Return what of a job's identity its sketch is of."""
    source = fields.get("source")
    columns = source.get("columns") if isinstance(source, Mapping) else None
    arms = {"experiment": fields["experiment"]} if "experiment" in fields else {}
    return {"model": fields.get("model"), "columns": columns, **arms}


def write(folder: Folder, kept: Kept) -> None:
    """Put the sketch of an output beside its rows."""
    folder.put(_NAME, kept.to_bytes())


def read(folder: Folder) -> Kept | None:
    """Return the sketch of an output, None where it has none, or one that is damaged."""
    try:
        return Kept.of(folder.read(_NAME) or b"")
    except ValueError:
        return None


def reference(about: About) -> Kept | None:
    """Return what outputs like this one are held against, as it was put last; None where there is none yet."""
    return home_store.read_newest(_path(about), _from_file)


def propose(kept: Kept) -> None:
    """Make a sketch the reference where there is none."""
    if reference(kept.about) is None:
        home_store.put(_path(kept.about), kept.to_bytes(), _from_file)


def replace(kept: Kept) -> None:
    """Make a sketch the reference, in the place of the one before."""
    home_store.replace(_path(kept.about), kept.to_bytes())


def speeds(about: About, artifact: str) -> list[float]:
    """Return rows per second of a replica in earlier runs of a job; an artifact is of one kind of machine."""
    return home_store.read_newest(_speeds(about, artifact), _numbers) or []


def add_speed(about: About, artifact: str, rows_per_second: float) -> None:
    """Remember a run's speed beside those before."""
    told = [*speeds(about, artifact), round(rows_per_second, 3)][-_RUNS:]
    home_store.replace(_speeds(about, artifact), json.dumps(told).encode())


def _speeds(about: About, artifact: str) -> Path:
    return home.home() / "references" / f"{about.key}-{artifact}.json"


def _numbers(file: Path) -> list[float]:
    return [float(one) for one in json.loads(file.read_text(encoding="utf-8"))]


def _from_file(path: Path) -> Kept:
    return Kept.of(path.read_bytes())


def _path(about: About) -> Path:
    return home.home() / "references" / f"{about.key}.pq"
