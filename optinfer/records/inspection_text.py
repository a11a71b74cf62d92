"""What `verify` and `explain` print for people; `--json` prints the same values as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from time import localtime, strftime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optinfer.records.inspection import Changed, Explained, ExplainRecord, VerifyRecord

_NUMBERS, _LETTERS, _FILES = 4, 160, 5


def verify_text(record: VerifyRecord) -> str:
    """Say whether the answers are the same, and what is not as it was."""
    lines = [
        f"{record.output}: {record.status.upper()}",
        f"  {record.reason}",
        f"  scored by {record.variant} (artifact {record.artifact}), run {record.run_id}",
        *(
            f"  column {one.column}: {one.rows:,} rows moved"
            + ("" if one.largest_difference is None else f", by up to {one.largest_difference:.3g}")
            for one in record.columns
            if one.rows
        ),
        *_changed(record.changed),
        *(f"  row {one.source_row} of {one.source} ({one.part}, row {one.row}): {one.said}" for one in record.moved),
        *(f"  not scored again: {one.rows:,} rows of {one.path}, which {one.why}" for one in record.lost[:_FILES]),
    ]
    if len(record.lost) > _FILES:
        lines.append(f"  and of {len(record.lost) - _FILES} more files")
    return "\n".join(lines)


def explain_text(record: ExplainRecord) -> str:
    """Show each row with where it came from, what scored it, and its answers beside those of now."""
    lines = [f"{record.output}, run {record.run_id} of the job {record.job}"]
    for row in record.rows:
        lines += ["", *_row(row)]
    if record.more:
        lines += ["", "and more rows; narrow --where, or raise --most"]
    for one in record.certificates:
        same = "same answer in any batch" if one.batch_invariant else "answers depend on the batch"
        lines += [
            "",
            f"certificate of {one.variant} (artifact {one.artifact}), measured {one.measured_at}: {one.metric} "
            f"{one.value:.4f} on {one.rows} rows; {same}; {one.reference}",
        ]
    return "\n".join([*lines, *_changed(record.changed)])


def _row(row: Explained) -> Iterator[str]:
    place = row.part if row.row is None else f"{row.part}, row {row.row}"
    yield f"{place}: row {row.source_row} of {row.source}"
    yield f"  scored by   {row.variant} (artifact {row.artifact}){f', arm {row.arm}' if row.arm else ''}{_by(row)}"
    if row.no_answer:
        yield f"  no answer   {row.no_answer}"
    for name, value in row.stored.items():
        beside = f"  |  again {_shown(row.again[name])}" if name in row.again else ""
        yield f"  {name:<11} {_shown(value)}{beside}"
    for name, value in row.again.items():
        if name not in row.stored:
            yield f"  {name:<11} none  |  again {_shown(value)}"
    if row.not_again:
        yield f"  not scored again: {row.not_again}"
    elif row.same is not None:
        apart = "" if row.difference is None else f", {row.difference:.3g} apart"
        yield f"  {'the same' if row.same else 'NOT the same'}{apart}"


def _by(row: Explained) -> str:
    on = f" on {row.node}" if row.node else ""
    at = f" at {strftime('%Y-%m-%d %H:%M:%S', localtime(row.committed))}" if row.committed else ""
    return on + at


def _changed(changed: tuple[Changed, ...]) -> list[str]:
    return [f"  since then: {one.kind} {one.name}: {one.was} -> {one.now}" for one in changed]


def _shown(value: Any) -> str:
    if isinstance(value, list) and len(value) > _NUMBERS:
        first = ", ".join(_shown(inner) for inner in value[:_NUMBERS])
        return f"[{first}, … {len(value)} in all]"
    if isinstance(value, float):
        return f"{value:.7g}"
    if isinstance(value, list | Mapping):
        return str(value)
    text = f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]}…"
