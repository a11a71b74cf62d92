"""What is said of a run, in every form: the JSON record, the manifest, MLflow's params and metrics."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from optinfer.commands.resolved import Resolved
from optinfer.commands.tracked import run_begun, run_ended
from optinfer.data.storage import absolute
from optinfer.forecast.foretold import Foretold, Placed, nothing_told
from optinfer.optimization.pools import Pools
from optinfer.optimization.selection import Prepared
from optinfer.records.manifest import BadFile, Manifest
from optinfer.records.placement import Placement, on_one_core
from optinfer.records.run import Breakdown, MlflowRun, Proof, RunRecord
from optinfer.secrets import clean, redact
from optinfer.tracking.breakdown import break_down
from optinfer.tracking.events import Finished, Started
from optinfer.tracking.recorder import Recorder
from optinfer.tracking.tally import Tally


@dataclass
class Summary:
    """Collects what a run learns on its way; `started` is in seconds since the epoch.

    A `retry` tries quarantined rows again: of how fast that is, nobody learns anything about the job.
    """

    started: float
    run_id: str
    retry: bool = False
    pools: Pools | None = None
    placements: tuple[Placement, ...] = ()
    foretold: Foretold | None = None
    marks: dict[str, float] = field(default_factory=dict)

    @property
    def _first(self) -> Prepared | None:
        return self.pools.first if self.pools else None

    def foretell(self, job: Resolved, left: np.ndarray[Any, Any], where: str) -> Foretold | None:
        """Forecast what is left, now that its replicas are placed; return nothing where that was done for these.

        Args:
            left: (n,) indices of fragments.
            where: as the executor says.
        """
        if self.retry or self.pools is None or (self.foretold and self.foretold.outlook.pools is self.pools):
            return None
        cuts, placed = job.plan.fragments, Placed(self.pools, self.placements, where)
        rows = (cuts.stop - cuts.start)[left[left < len(cuts)]]
        proved = self.marks.get("prepare", self.started)
        self.foretold = Foretold.of(job.config.placement, job.subject.model.key, placed, rows, self.started, proved)
        return self.foretold

    def mark(self, step: str) -> None:
        """Note that a step of the start-up is done now."""
        self.marks[step] = time.time()

    def start(self, job: Resolved) -> Started:
        return run_begun(job, self.run_id)

    def record(self, job: Resolved, tally: Tally, mlflow: MlflowRun) -> RunRecord:
        """Return the run as one flat object: the contract of `run --json`."""
        now = self.marks["account"] = time.time()
        seconds = now - self.started
        total, scored = tally.total, tally.scored
        prepared = self._first
        record = RunRecord(
            run_id=self.run_id,
            job=job.config.name,
            variant=prepared.variant.name if prepared else job.config.variant,
            fingerprint=job.fingerprint,
            output=redact(absolute(job.config.sink.path)),
            fragments=len(job.plan.fragments),
            fragments_resumed=len(job.plan.fragments) - tally.counted,
            fragments_scored_again=tally.scored_again,
            rows_in=total.rows_in,
            rows_out=total.rows_out,
            rows_quarantined=total.rows_quarantined,
            rows_deduplicated=scored.rows_deduplicated,
            seconds=round(seconds, 3),
            startup_seconds=round(tally.first_receipt - self.started, 3) if tally.first_receipt else None,
            rows_per_second=round(scored.rows_in / seconds, 2),
            steady_rows_per_second=tally.steady_rows_per_second(),
            tokens_per_second=round(scored.tokens / seconds, 1) if scored.tokens else None,
            padding_fraction=round(scored.padding_fraction, 5),
            time=self._time(tally),
            rows_by_node=tally.rows_by_node(),
            rows_by_variant=dict(tally.rows_by_variant),
            out_of_memory=scored.out_of_memory,
            taken_over=tally.taken_over,
            placement=self.placements,
            gate=prepared.gate if prepared else None,
            certificate=prepared.certificate if prepared else None,
            beside=self._beside(),
            arms={name: _proof(one) for name, one in self.pools.arms.items()} if self.pools else {},
            forecast=self.foretold.against(scored.rows_in, now)
            if self.foretold
            else nothing_told(scored.rows_in, seconds),
            mlflow=mlflow,
        )
        return _without_speed(record) if self.retry else record

    def _beside(self) -> Proof | None:
        """Return what is said of the second pool's variant, None where there is none."""
        if self.pools is None or len(self.pools) == 1:
            return None
        return _proof(self.pools.each[1])

    def _time(self, tally: Tally) -> Breakdown | None:
        one_core = any(on_one_core(place.device, place.threads_per_replica) for place in self.placements[:1])
        return break_down(tally, self.started, self.marks, time.time(), one_core)

    def nothing_to_do(self, run: RunRecord) -> RunRecord:
        """Return the record of a finished run as that of this one, which did nothing."""
        return replace(
            _without_speed(run),
            status="nothing to do",
            fragments_resumed=run.fragments,
            fragments_scored_again=0,
            taken_over={},
            seconds=round(time.time() - self.started, 3),
            startup_seconds=None,
        )

    def manifest(self, job: Resolved, tally: Tally, recorder: Recorder) -> Manifest:
        account = Manifest(
            run=self.record(job, tally, recorder.mlflow_run()),
            job=job.config.model_dump(mode="json"),
            identity=job.fields,
            quarantine_reasons=dict(tally.reasons.most_common(100)),
            bad_files=tuple(BadFile(path=redact(path), reason=why) for path, why in job.plan.bad_files),
            variants_not_chosen=dict(self._first.not_chosen) if self._first else {},
            variants_not_chosen_why={name: str(why) for name, why in self._first.why_not} if self._first else {},
            warnings=tuple(recorder.warnings),
            journal=str(recorder.journal.path),
        )
        return clean(account)

    def finish(self, job: Resolved, tally: Tally, manifest: Manifest) -> Finished:
        """Return metrics, outputs and artifacts for the run's last event."""
        artifacts = {"manifest.json": json.dumps(manifest.as_dict(), indent=1, default=str)}
        if manifest.run.drift:
            artifacts["drift.json"] = json.dumps(manifest.run.drift.as_dict(), indent=1)
        if self._first:
            artifacts["certificate.json"] = json.dumps(self._first.certificate.as_dict(), indent=1)
        return run_ended(job, tally, manifest, artifacts)

    def keep(self, tally: Tally) -> None:
        """Remember what the run took, which is recorded now, for the next forecast."""
        if self.foretold and (account := self.marks.get("account")):
            self.foretold.keep(tally, self.marks, account, time.time())


def _without_speed(run: RunRecord) -> RunRecord:
    return replace(run, rows_per_second=None, steady_rows_per_second=None, tokens_per_second=None, forecast=None)


def _proof(one: Prepared) -> Proof:
    return Proof(
        variant=one.variant.name,
        gate=one.gate,
        certificate=one.certificate,
        variants_not_chosen=dict(one.not_chosen),
    )
