"""make_table(folder, path): files into one Parquet file that a job reads, row by row, each file accounted for.

Rows come in the order of the files' names, so the same files give the same table. The file has its name when it is
whole, and nothing is overwritten. What its kinds of files do is in data/intake.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from optinfer.data.intake import INTAKES, Asked, File, Intake, Piece, Survey
from optinfer.data.listing import SUFFIXES, below, hidden
from optinfer.data.storage import absolute, file_system, is_local
from optinfer.errors import ConfigError, SourceError, StorageError, redact
from optinfer.records.table import LeftOut, TableRecord
from optinfer.system import atomic
from optinfer.system.outages import WAITING, reason
from optinfer.tracking.progress import Progress

Labels = Literal["auto", "parent", "top", "none"]
# Uncompressed; what a fragment holds at most (`source.fragment_mb`) is twice this.
_GROUP_BYTES = 32 * 10**6
_SAID = 10
ID, LABEL = "id", "label"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What table is to be made.

    Attributes:
        kind: of the files; None where they are all of one.
        labels: what a file's label is: the folder it lies in, the topmost one below the folder that was given, or
            none. `auto`: the folder it lies in where every file lies in one right below, none where no file does.
        leave_out_bad: files that cannot be read are left out; else there is no table.
        asked: how files are read.
    """

    kind: str | None = None
    labels: Labels = "auto"
    leave_out_bad: bool = False
    asked: Asked = field(default_factory=Asked)


def make_table(
    folder: str, path: str, wanted: Wanted | None = None, say: Callable[[str], None] = lambda line: None
) -> TableRecord:
    """Make a Parquet file of the images, texts, CSV or JSON lines below a folder, or of one such file.

    Columns are `id` (the file's name below the folder; of CSV and JSON lines with `#` and the row's number, unless they
    have such a column), `label` where folders are labels, and `image`, `text`, or the file's own.

    Args:
        folder: local, or a URL that fsspec opens.
        path: the Parquet file, on this machine; it is new.
        wanted: None takes what is said of each part of `Wanted`.
        say: is told what a person should know.

    Raises:
        ConfigError: there are no files, files of several kinds, an option that has no use, or such a table.
        SourceError: a file cannot be read; all of them are named.
    """
    began, wanted = monotonic(), wanted or Wanted()
    target = _target(path)
    names = _listed(folder)
    kind = wanted.kind or _kind(folder, names)
    intake = INTAKES.get(kind)
    _require_use(kind, intake, wanted.asked)
    files, left_out = _chosen(names, intake)
    if not files:
        raise ConfigError(f"{redact(folder)} has no files of the kind {kind} ({', '.join(intake.suffixes)})")
    for line in _named("left out", left_out):
        say(line)
    labels = _labels(files, wanted.labels, intake.row_a_file)
    survey = intake.survey(files, wanted.asked)
    for line in survey.said:
        say(line)
    making = _Making(intake, survey, labels, list(_left(survey.bad)))
    with Progress(survey.rows) as progress:
        making.write(target, files, wanted, progress)
    for line in (*_named("cannot be read, left out", making.bad), *_few(making.said)):
        say(line)
    return TableRecord(
        table=str(target),
        kind=kind,
        rows=making.rows,
        files=len(files) - len(making.bad),
        row_groups=making.groups,
        bytes=target.stat().st_size,
        columns={one.name: str(one.type) for one in making.schema},
        labels=dict(sorted(making.counts.items())),
        bad_files=tuple(making.bad),
        left_out=tuple(left_out),
        said=(*survey.said, *making.said),
        seconds=monotonic() - began,
    )


def _target(path: str) -> Path:
    if not is_local(path):
        raise ConfigError(f"{redact(path)}: a table is written on this machine; give a path, and copy it there")
    target = Path(absolute(path))
    if target.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: a job reads files that end in {', '.join(SUFFIXES)}; name it so")
    _require_new(target)
    return target


def _require_new(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{target} exists, and nothing is overwritten; remove it, or name another file")


def _listed(folder: str) -> dict[str, File]:
    """Return what lies below a folder, by its name there and in the order of these; of one file that alone."""
    url = absolute(folder)
    fs, root = file_system(url)
    try:
        if WAITING.ask(url, lambda: fs.isfile(root)):
            return {(name := root.rpartition("/")[2]): File(root if is_local(url) else url, name)}
        found = WAITING.ask(url, lambda: below(fs, root, is_local(url)))
    except FileNotFoundError as error:
        raise ConfigError(f"{redact(folder)} does not exist; check the path") from error
    except StorageError as error:
        raise SourceError(f"cannot list {redact(folder)}: {reason(url, error)}") from error
    names = {PurePosixPath(path).relative_to(root).as_posix(): path for path in found}
    return {
        name: File(path if is_local(url) else fs.unstrip_protocol(path), name) for name, path in sorted(names.items())
    }


def _kind(folder: str, names: Iterable[str]) -> str:
    """Return the one kind that all files are of which nothing hides."""
    by_kind: Counter[str] = Counter(_kind_of(name) or "of no known kind" for name in names if not hidden(name, ""))
    if len(by_kind) == 1 and (only := next(iter(by_kind))) in INTAKES.names():
        return only
    if not by_kind:
        raise ConfigError(f"{redact(folder)} holds no file")
    found = ", ".join(f"{count:,} {kind}" for kind, count in by_kind.most_common())
    raise ConfigError(f"{redact(folder)} holds {found}; say which become rows: --kind {'|'.join(INTAKES.names())}")


def _kind_of(name: str) -> str | None:
    return next((kind for kind in INTAKES.names() if name.lower().endswith(INTAKES.get(kind).suffixes)), None)


def _require_use(kind: str, intake: Intake, asked: Asked) -> None:
    given = {name for name, value in vars(asked).items() if value is not None and value is not False}
    if idle := sorted(given - intake.takes):
        raise ConfigError(f"--{idle[0].replace('_', '-')} has no use with {kind}; leave it out")


def _chosen(names: dict[str, File], intake: Intake) -> tuple[list[File], list[LeftOut]]:
    files, left_out = [], []
    for name, file in names.items():
        if hidden(name, ""):
            left_out.append(LeftOut(file=name, reason="its name, or a folder's above it, begins with `_` or `.`"))
        elif not name.lower().endswith(intake.suffixes):
            left_out.append(LeftOut(file=name, reason="its suffix is of another kind"))
        else:
            files.append(file)
    return files, left_out


def _labels(files: list[File], wanted: Labels, row_a_file: bool) -> dict[str, str] | None:
    """Return the label of each file, by its name; None where rows get none.

    Raises:
        ConfigError: folders do not say it.
    """
    folders = {file.name: file.name.split("/")[:-1] for file in files}
    depths = {len(parts) for parts in folders.values()}
    if wanted == "none" or (wanted == "auto" and (depths == {0} or not row_a_file)):
        return None
    if wanted == "auto" and depths != {1}:
        deepest = max(folders, key=lambda name: len(folders[name]))
        raise ConfigError(
            f"files lie {min(depths)} to {max(depths)} folders deep ({deepest}), so which folder is a label cannot be "
            "told; say --labels parent, top or none"
        )
    if lacking := next((name for name, parts in folders.items() if not parts), None):
        raise ConfigError(
            f"{lacking} lies in no folder that could be its label; move it into one, or say --labels none"
        )
    return {name: parts[0] if wanted == "top" else parts[-1] for name, parts in folders.items()}


def _left(files: Iterable[tuple[File, str]]) -> Iterable[LeftOut]:
    return (LeftOut(file=file.name, reason=why) for file, why in files)


def _named(what: str, files: list[LeftOut]) -> list[str]:
    return _few([f"{what}: {one.file}: {one.reason}" for one in files])


def _few(lines: list[str]) -> list[str]:
    return [*lines[:_SAID], f"and {len(lines) - _SAID:,} more"] if len(lines) > _SAID else lines


@dataclass
class _Making:
    """A table while it is written: a row group lies in memory."""

    intake: Intake
    survey: Survey
    labels: dict[str, str] | None
    bad: list[LeftOut]
    rows: int = 0
    groups: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)
    _of_file: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        own = self.survey.schema.names
        if self.labels is not None and LABEL in own:
            raise ConfigError(f"the files have a column {LABEL!r} of their own; say --labels none")
        added = [] if ID in own else [pa.field(ID, pa.string())]
        added += [] if self.labels is None else [pa.field(LABEL, pa.string())]
        self.schema = pa.schema([*added, *self.survey.schema])

    def write(self, target: Path, files: list[File], wanted: Wanted, progress: Progress) -> None:
        """Write the file; there is none where this raises."""
        known = {one.file for one in self.bad}
        good = [file for file in files if file.name not in known]
        try:
            with atomic.writing(target, name=atomic.name_new) as file:
                with pq.ParquetWriter(file, self.schema, compression=self.intake.compression) as writer:
                    self._write(writer, self.intake.pieces(good, self.survey, wanted.asked), progress)
                self._require_whole(wanted.leave_out_bad)
        except FileExistsError:
            _require_new(target)
            raise
        atomic.keep(target.parent)

    def _write(self, writer: Any, pieces: Iterable[Piece], progress: Progress) -> None:
        held: list[pa.RecordBatch] = []
        rows = size = 0
        for piece in pieces:
            if piece.rows is None:
                self.bad.append(LeftOut(file=piece.file.name, reason=piece.reason))
                progress.advance(0, 1)
                continue
            for batch in self._slices(self._whole(piece.file.name, piece.rows)):
                if held and (rows + batch.num_rows > self.intake.group_rows or size + batch.nbytes > _GROUP_BYTES):
                    self._put(writer, held)
                    held, rows, size = [], 0, 0
                held.append(batch)
                rows, size = rows + batch.num_rows, size + batch.nbytes
            self.said += [piece.said] if piece.said else []
            progress.advance(piece.rows.num_rows, 0)
        if held:
            self._put(writer, held)

    def _slices(self, batch: pa.RecordBatch) -> Iterable[pa.RecordBatch]:
        most = max(1, min(self.intake.group_rows, int(batch.num_rows * _GROUP_BYTES // max(batch.nbytes, 1))))
        return (batch.slice(at, most) for at in range(0, batch.num_rows, most))

    def _put(self, writer: Any, held: list[pa.RecordBatch]) -> None:
        table = pa.Table.from_batches(held, self.schema)
        writer.write_table(table, row_group_size=table.num_rows)
        self.rows, self.groups = self.rows + table.num_rows, self.groups + 1

    def _whole(self, name: str, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Return rows with their ids and labels."""
        count, before = rows.num_rows, self._of_file[name]
        columns = {one.name: rows.column(one.name) for one in rows.schema}
        if ID not in columns:
            numbered = [f"{name}#{number}" for number in range(before, before + count)]
            columns[ID] = pa.array([name] if self.intake.row_a_file else numbered, pa.string())
        if self.labels is not None:
            columns[LABEL] = pa.array([self.labels[name]] * count, pa.string())
            self.counts[self.labels[name]] += count
        self._of_file[name] += count
        return pa.record_batch([columns[one.name] for one in self.schema], schema=self.schema)

    def _require_whole(self, leave_out_bad: bool) -> None:
        """Refuse a table that lacks files, unless that was asked for."""
        if self.bad and not leave_out_bad:
            lines = "\n".join(f"  {line}" for line in _named("cannot be read", self.bad))
            raise SourceError(
                f"{len(self.bad):,} of the files cannot be read, no table is written:\n{lines}\n"
                "mend or remove them, or say --on-bad-file quarantine to leave them out"
            )
        if not self.rows:
            raise SourceError("no file gives a row, no table is written")
        expected = self.survey.rows - (len(self.bad) - len(self.survey.bad))
        if self.rows != expected:
            raise SourceError(
                f"{self.rows:,} rows were read, {expected:,} a moment ago: files were changed; start again"
            )
