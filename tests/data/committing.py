"""Parts of outputs, put as a replica puts them."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa

from optinfer.data.fragments import Fragment
from optinfer.data.output import Output
from optinfer.data.sinks import Sink
from optinfer.records.part import Part
from optinfer.records.receipt import Receipt
from optinfer.records.stats import Stats


def put(
    output: Output | Sink,
    name: str,
    fragment: Fragment,
    fingerprint: str,
    artifact: str,
    scored: pa.Table,
    quarantined: pa.Table | None,
    variant: str | None = None,
    allowed: Collection[str] = (),
) -> Part:
    part = Part(
        fragment=fragment.index, fingerprint=fingerprint, artifact=artifact, variant=variant, rows_in=fragment.rows
    )
    sink = output.sink if isinstance(output, Output) else output
    return sink.put(name, part, scored, quarantined, allowed)


def lying(output: Output, name: str) -> Part | None:
    """Return the part of this name as it lies there."""
    return output.sink.read([name])[0]


def receipt(fragment: int, stats: Stats, reasons: dict[str, int], time: float, replica: str = "") -> Receipt:
    """Return a receipt; `time` is when the fragment was committed."""
    made = Part(fragment=fragment, variant="v", rows_in=stats.rows_in, rows_out=stats.rows_out)
    return Receipt(
        part=f"part-{fragment:06d}.parquet",
        made=made,
        stats=stats,
        reasons=reasons,
        replica=replica,
        node="",
        load_started=0.0,
        load_seconds=0.0,
        committed=time,
        peak_rss_mb=0.0,
        max_batch_tokens=0,
        max_batch_size=0,
    )
