"""What is said of a run, in every form: the JSON record, the manifest, MLflow's params and metrics."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from optinfer.commands.planning import Planned
from optinfer.data.storage import absolute
from optinfer.errors import redact
from optinfer.execution.placement import Placement
from optinfer.forecast.estimate import against, keep_startup
from optinfer.inference.replica import on_one_core
from optinfer.optimization.selection import Prepared
from optinfer.tracking.breakdown import break_down
from optinfer.tracking.metrics import peak_rss_mb
from optinfer.tracking.recorder import Recorder
from optinfer.tracking.tally import Tally


@dataclass
class Summary:
    """Collects what a run learns on its way; `started` is in seconds since the epoch."""

    started: float
    run_id: str
    prepared: Prepared | None = None
    placement: Placement | None = None
    marks: dict[str, float] = field(default_factory=dict)

    def mark(self, step: str) -> None:
        """Note that a step of the start-up is done now."""
        self.marks[step] = time.time()

    def start(self, planned: Planned) -> dict[str, Any]:
        """Return params, tags and inputs for the run's first event."""
        config = planned.config
        return {
            "params": {
                **planned.params,
                "data.rows": planned.plan.rows,
                "data.files": len(planned.plan.files),
                "fragments": len(planned.plan.fragments),
                "batching.max_batch_tokens": config.batching.max_batch_tokens,
                "batching.max_batch_size": config.batching.max_batch_size,
                "batching.dedupe": config.batching.dedupe,
            },
            "tags": {"optinfer.run_id": self.run_id, "optinfer.fingerprint": planned.fingerprint},
            "inputs": [_dataset(config.source.path, planned.fields["source"]["files"], "input")],
        }

    def record(self, planned: Planned, tally: Tally, mlflow: dict[str, Any]) -> dict[str, Any]:
        """Return the run as one flat object: the contract of `run --json`."""
        seconds = time.time() - self.started
        total, scored = tally.total, tally.scored
        prepared = self.prepared
        return {
            "status": "done",
            "run_id": self.run_id,
            "job": planned.config.name,
            "variant": prepared.variant.name if prepared else planned.config.variant,
            "fingerprint": planned.fingerprint,
            "output": redact(absolute(planned.config.sink.path)),
            "fragments": len(planned.plan.fragments),
            "fragments_resumed": len(planned.plan.fragments) - tally.counted,
            "fragments_scored_again": tally.scored_again,
            "rows_in": total.rows_in,
            "rows_out": total.rows_out,
            "rows_quarantined": total.rows_quarantined,
            "rows_deduplicated": scored.rows_deduplicated,
            "seconds": round(seconds, 3),
            "startup_seconds": round(tally.first_receipt - self.started, 3) if tally.first_receipt else None,
            "rows_per_second": round(scored.rows_in / seconds, 2),
            "steady_rows_per_second": tally.steady_rows_per_second(),
            "tokens_per_second": round(scored.tokens / seconds, 1) if scored.tokens else None,
            "padding_fraction": round(scored.padding_fraction, 5),
            "time": self._time(tally),
            "rows_by_node": tally.rows_by_node(),
            "rows_by_variant": dict(tally.rows_by_variant),
            "out_of_memory": scored.out_of_memory,
            "placement": self.placement.as_dict() if self.placement else {},
            "gate": prepared.gate.as_dict() if prepared else {},
            "certificate": prepared.certificate.as_dict() if prepared else {},
            "beside": self._beside(),
            "forecast": against(planned, prepared, self.placement, scored.rows_in, seconds - self._proving()),
            "mlflow": mlflow,
        }

    def _beside(self) -> dict[str, Any]:
        """Return what is said of the second variant, {} where there is none."""
        second = self.prepared.beside if self.prepared else None
        if second is None:
            return {}
        return {
            "variant": second.variant.name,
            "gate": second.gate.as_dict(),
            "certificate": second.certificate.as_dict(),
            "variants_not_chosen": dict(second.others),
        }

    def _time(self, tally: Tally) -> dict[str, Any]:
        placed = self.placement
        one_core = placed is not None and on_one_core(placed.device, placed.threads_per_replica)
        found = break_down(tally, self.started, self.marks, time.time(), one_core)
        return found.as_dict() if found else {}

    def nothing_to_do(self, run: dict[str, Any]) -> dict[str, Any]:
        """Return the record of a finished run as that of this one, which did nothing."""
        speeds = dict.fromkeys(
            ("startup_seconds", "rows_per_second", "steady_rows_per_second", "tokens_per_second"), None
        )
        seconds = round(time.time() - self.started, 3)
        return {
            **run,
            **speeds,
            "forecast": None,
            "status": "nothing to do",
            "fragments_scored_again": 0,
            "seconds": seconds,
            "fragments_resumed": run["fragments"],
        }

    def manifest(self, planned: Planned, tally: Tally, recorder: Recorder) -> dict[str, Any]:
        return {
            "run": self.record(planned, tally, recorder.mlflow_run()),
            "job": _redacted(planned.config.model_dump(mode="json")),
            "identity": planned.fields,
            "quarantine_reasons": dict(tally.reasons.most_common(100)),
            "bad_files": [{"path": redact(path), "reason": why} for path, why in planned.plan.bad_files],
            "variants_not_chosen": dict(self.prepared.others) if self.prepared else {},
            "warnings": recorder.warnings,
            "journal": str(recorder.journal.path),
        }

    def finish(self, planned: Planned, tally: Tally, manifest: dict[str, Any]) -> dict[str, Any]:
        """Return metrics, outputs and artifacts for the run's last event."""
        artifacts = {"manifest.json": json.dumps(manifest, indent=1, default=str)}
        if self.prepared:
            artifacts["certificate.json"] = json.dumps(self.prepared.certificate.as_dict(), indent=1)
            if (seconds := self._startup(planned, tally)) is not None:
                keep_startup(planned, self.prepared, seconds)
        return {
            "metrics": self._metrics(manifest["run"], tally),
            "outputs": [_dataset(planned.config.sink.path, planned.fingerprint, "output")],
            "artifacts": artifacts,
        }

    def _proving(self) -> float:
        """Return the seconds until the variant was proved: building and measuring it is done once, and not forecast."""
        return self.marks.get("prepare", self.started) - self.started

    def _startup(self, planned: Planned, tally: Tally) -> float | None:
        """Return the time to the first fragment, less what proving the variant and scoring the fragment took."""
        if tally.first_receipt is None:
            return None
        steady = tally.steady_rows_per_second()
        replicas = sum(part.replicas for part in self.placement.parts) if self.placement else 1
        rows = planned.plan.fragments[0].rows * replicas
        begun = self.started + self._proving()
        return max(0.0, tally.first_receipt - begun - (rows / steady if steady else 0.0))

    def _metrics(self, run: dict[str, Any], tally: Tally) -> dict[str, float]:
        numbers = {k: float(v) for k, v in run.items() if isinstance(v, int | float)}
        stats = tally.scored
        if run["time"]:
            numbers |= {f"seconds.{name}": value for name, value in run["time"]["replica_seconds"].items()}
            numbers |= {f"startup_seconds.{name}": v for name, v in run["time"]["startup_seconds"].items()}
        numbers |= {f"micro_batch_ms.p{q}": stats.latencies.percentile(q) * 1e3 for q in (50, 95, 99)}
        if (share := tally.model_share()) is not None:
            numbers["model_share_of_replica_time"] = share
        if self.prepared:
            certificate = self.prepared.certificate
            numbers |= {
                "build_seconds": certificate.build_seconds,
                "artifact_mb": certificate.artifact_mb,
                "gate.value": self.prepared.gate.value,
                "certificate.largest_difference": certificate.largest_difference,
                "certificate.rows_per_second": certificate.rows_per_second,
            }
        told = run["forecast"]
        expected = {f"forecast.{name}": told[name] for name in ("seconds", "rows_per_second", "cost", "error_percent")}
        expected["cost"] = told["actual"]["cost"]
        numbers |= {name: value for name, value in expected.items() if value is not None}
        numbers["driver_peak_rss_mb"] = peak_rss_mb()
        numbers["replica_peak_rss_mb"] = tally.replica_peak_rss_mb
        return numbers


def _redacted(value: Any) -> Any:
    """Return a job as plain values whose URLs have lost their credentials."""
    if isinstance(value, dict):
        return {key: _redacted(inner) for key, inner in value.items()}
    return redact(value) if isinstance(value, str) else value


def _dataset(path: str, digest: str, context: str) -> dict[str, str]:
    source = redact(absolute(path))
    return {"name": source.rstrip("/").rpartition("/")[2], "digest": digest, "source": source, "context": context}
