"""What `compare` prints for people; `--json` prints the same values as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from optinfer.records.text import markdown_table, mlflow_text

if TYPE_CHECKING:
    from optinfer.records.decision import Agreement, CompareRecord, Side

_SHOWN = 5


def compare_text(record: CompareRecord) -> str:
    """Say what was decided and why, then show both sides, what differs, and the slices."""
    lines = [
        f"{record.challenger.name} against {record.champion.name} on the same {record.rows:,} rows: "
        f"{record.verdict.upper()}",
        f"  {record.reason}",
        "",
        compare_table(record),
        "",
        f"agreement: {_agreement(record.agreement)}",
        *_differing(record),
        *_slices(record),
        f"mlflow: {mlflow_text(record.mlflow)}",
    ]
    return "\n".join(lines)


def compare_table(record: CompareRecord) -> str:
    """Return both sides as a Markdown table."""
    metric = record.metric or "no label"
    head = ("", metric, "rows/s", "ms p50 / p95 / p99", "RAM MB", "MB", "cost of 10^6 rows", "no answer")
    return markdown_table(head, [_side("champion", record.champion), _side("challenger", record.challenger)])


def _side(role: str, side: Side) -> tuple[str, ...]:
    return (
        f"{role} `{side.name}`" + (f" ({side.variant})" if side.variant != side.name else ""),
        "" if side.value is None else f"{side.value:.4f}",
        f"{side.rows_per_second:,.1f}",
        " / ".join(f"{ms:.1f}" for ms in side.micro_batch_ms.values()),
        f"{side.peak_rss_mb:.0f}",
        f"{side.artifact_mb:.0f}",
        "" if side.cost_per_million_rows is None else f"{side.cost_per_million_rows:.4g}",
        str(side.unanswered),
    )


def _agreement(agreement: Agreement) -> str:
    within = "" if agreement.low is None else f" [{agreement.low:.4f}, {agreement.high:.4f}]"
    differ = "" if agreement.differing is None else f", {agreement.differing:,} rows differ"
    return f"{agreement.metric} {agreement.value:.4f}{within}{differ}; it is no quality"


def _differing(record: CompareRecord) -> Iterator[str]:
    for row in record.differing[:_SHOWN]:
        where = ", ".join(f"{name}={value}" for name, value in row.row.items()) or "a row"
        truth = "" if row.label is None else f", labelled {row.label}"
        said = f": {row.champion} -> {row.challenger}{truth}" if row.champion or row.challenger else ""
        yield f"  look at {where}{said} (closeness {row.closeness:.4f})"


def _slices(record: CompareRecord) -> Iterator[str]:
    if record.slices:
        head = ("slice", "rows", "champion", "challenger", "difference", "verdict", "p (Holm)")
        rows = [
            (
                f"{one.column}={one.value}",
                f"{one.rows:,}",
                f"{one.champion:.4f}",
                f"{one.challenger:.4f}",
                f"{one.difference.value:+.4f} [{one.difference.low:+.4f}, {one.difference.high:+.4f}]",
                one.verdict,
                "" if one.p_value is None else f"{one.p_value:.3g}",
            )
            for one in record.slices
        ]
        yield from ("", markdown_table(head, rows))
    if record.slices_left_out:
        yield f"{record.slices_left_out} rarer values are left out"
