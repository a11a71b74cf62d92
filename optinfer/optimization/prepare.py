"""Prepare: one job's model and sample on a workbench, where variants are built and certified on demand."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer import home, plugins
from optinfer.artifact import Artifact
from optinfer.config import JobConfig
from optinfer.data.fragments import Fragment
from optinfer.data.reading import FragmentReader
from optinfer.data.sampling import digest, draw
from optinfer.errors import NoVariantError
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.optimization import certificate as certificates
from optinfer.optimization import model_source
from optinfer.optimization.build import build, cpu_features, installed
from optinfer.optimization.certificate import Answers, Certificate
from optinfer.optimization.techniques import BuildContext
from optinfer.optimization.variants import BASELINE, Variant, require

CALIBRATION_ROWS = 256
_KEPT = "optinfer_kept_rows"


class Workbench:
    """One job's model and sample, and what is made of them on demand."""

    def __init__(
        self,
        config: JobConfig,
        folder: Path,
        model_digest: str,
        fragments: tuple[Fragment, ...],
        report: Callable[[str], None],
    ) -> None:
        columns = list(dict.fromkeys(config.source.columns.values()))
        self.config = config
        self.folder = folder
        self.sample = draw(
            fragments,
            FragmentReader(columns),
            columns,
            config.gate.sample_rows,
            CALIBRATION_ROWS,
            skip_unreadable=config.source.on_bad_file == "quarantine",
        )
        self._report = report
        self._model = model_source.baseline_artifact(folder, model_digest)
        self._calibration_digest = digest(self.sample.calibration)

    def build(self, variant: Variant) -> Artifact:
        return build(variant, self._model, self._calibration_digest, lambda: self._context, self._report)

    def settings(self, variant: Variant, artifact: Artifact, threads: int = 1) -> ReplicaSettings:
        batching = self.config.batching
        return ReplicaSettings(
            family=self.config.model.family,
            family_settings=family_settings(self.config),
            model_path=str(self.folder),
            backend=variant.backend,
            artifact=artifact,
            device=variant.device,
            threads=threads,
            max_batch_tokens=0 if batching.max_batch_tokens == "auto" else batching.max_batch_tokens,
            max_batch_size=batching.max_batch_size,
        )

    def certify(self, variant: Variant, settings: ReplicaSettings) -> Certificate:
        key = self._certificate_key(settings)
        if kept := certificates.read(settings.artifact.key, key):
            return kept
        baseline = self._baseline
        self._report(f"certifying {variant.name} on {self.sample.gate.num_rows} rows")
        if not len(baseline.kept):
            raise NoVariantError("the sample has no row that the baseline can score; check source.columns")
        rows, replica = self._roles(self.sample.gate), Replica(settings)
        metric = self.config.gate.metric
        return certificates.certify(variant.name, settings, replica, rows, baseline, metric, key)

    @cached_property
    def _context(self) -> BuildContext:
        family = plugins.load("families", self.config.model.family).load(str(self.folder), family_settings(self.config))
        return BuildContext(family, family.preprocess(self._roles(self.sample.calibration)))

    @cached_property
    def _baseline(self) -> Answers:
        """The baseline's outputs for the sample, kept on disk: every variant is compared with the same ones."""
        settings = self.settings(require(BASELINE), self._model, threads=_all_threads())
        path = home.home() / "baselines" / f"{self._model.key}-{self._certificate_key(settings)}.npz"
        if not path.is_file():
            self._report(f"scoring {self.sample.gate.num_rows} sample rows with the baseline {BASELINE}")
            scored = Replica(settings).score(self._roles(self.sample.gate))
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, allow_pickle=False, **scored.outputs, **{_KEPT: scored.kept})
        with np.load(path, allow_pickle=False) as stored:
            return Answers({name: stored[name] for name in stored.files if name != _KEPT}, stored[_KEPT])

    def _roles(self, table: pa.Table) -> pa.Table:
        columns = self.config.source.columns
        return pa.table({role: table.column(column) for role, column in columns.items()})

    def _certificate_key(self, settings: ReplicaSettings) -> str:
        """Identify what a measurement depends on besides the artifact."""
        shaped_by: dict[str, Any] = {
            "sample": self.sample.digest,
            "runs_on": [settings.backend, settings.device, *cpu_features()],
            "runtime": {name: installed(name) for name in plugins.load("backends", settings.backend).REQUIRES},
            "family": settings.family_settings,
            "metric": self.config.gate.metric,
            "batching": [settings.max_batch_tokens, settings.max_batch_size],
            "threads": settings.threads,
        }
        return hashlib.sha256(json.dumps(shaped_by, sort_keys=True).encode()).hexdigest()[:16]


def family_settings(config: JobConfig) -> dict[str, Any]:
    return {"max_length": config.model.max_length}


def _all_threads() -> int:
    return os.cpu_count() or 1
