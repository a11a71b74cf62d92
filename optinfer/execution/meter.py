"""A replica's work as Ray's metrics, which the node's agent serves to Prometheus; the only file that knows them.

Counts are of work: what a lost node had committed and what was scored twice is in them twice. The account of a job is
its receipts'. Ray prefixes each name with `ray_`, and adds labels of its own (session, node, worker).
"""

from __future__ import annotations

from collections.abc import Mapping

from optinfer.records.receipt import Receipt

_LABELS = ("job", "variant", "device")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class RayMeter:
    """Counts for one replica, in the process of its actor."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        self._rows = Counter("optinfer_rows_total", "Rows scored and committed.", _LABELS)
        self._quarantined = Counter("optinfer_quarantined_rows_total", "Rows that could not be scored.", _LABELS)
        self._fragments = Counter("optinfer_fragments_total", "Fragments committed.", _LABELS)
        self._micro_batches = Histogram(
            "optinfer_micro_batch_seconds", "Seconds of the model for a micro-batch.", list(_SECONDS), _LABELS
        )
        self._busy = Gauge(
            "optinfer_replica_busy_share", "Share of a loaded replica's time that its model was busy.", _LABELS
        )
        self._load = Gauge("optinfer_model_load_seconds", "Seconds that a replica took to load its model.", _LABELS)
        self._labels = dict(labels)
        self._infer_seconds = 0.0

    def __call__(self, receipt: Receipt) -> None:
        """Count a committed fragment."""
        stats, labels = receipt.stats, self._labels
        for counter, more in (
            (self._rows, stats.rows_out),
            (self._quarantined, stats.rows_quarantined),
            (self._fragments, 1),
        ):
            if more:  # Ray refuses to add nothing
                counter.inc(more, labels)
        for seconds, count in stats.latencies.counted():
            for _ in range(count):
                self._micro_batches.observe(seconds, labels)
        self._infer_seconds += stats.infer_seconds
        loaded = receipt.load_started + receipt.load_seconds
        self._busy.set(min(self._infer_seconds / max(receipt.committed - loaded, 1e-9), 1.0), labels)
        self._load.set(receipt.load_seconds, labels)
