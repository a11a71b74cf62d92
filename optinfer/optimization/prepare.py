"""Prepare: the artifact that will score, built, certified on the job's rows and through the gate; or a clear no."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
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
from optinfer.data.sampling import Sample, digest, draw
from optinfer.errors import GateError, NoVariantError
from optinfer.families import Arrays
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.optimization import certificate as certificates
from optinfer.optimization import model_source
from optinfer.optimization.build import build
from optinfer.optimization.certificate import Certificate
from optinfer.optimization.gate import GateResult, judge
from optinfer.optimization.techniques import BuildContext
from optinfer.optimization.variants import BASELINE, Variant, require

CALIBRATION_ROWS = 256


@dataclass(frozen=True)
class Prepared:
    """The variant that scores, with its proof; `refused` names those tried before it and why they may not."""

    variant: Variant
    settings: ReplicaSettings
    certificate: Certificate
    gate: GateResult
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def warnings(self) -> list[str]:
        found = [f"{name} does not score: {reason}" for name, reason in self.refused]
        if not self.certificate.batch_invariant:
            found.append(
                f"{self.variant.name} is not batch-invariant: the same row differs by up to "
                f"{self.certificate.largest_difference:.2g} with other neighbours"
            )
        return found

    @property
    def params(self) -> dict[str, Any]:
        """Describe the variant for a tracker."""
        return {
            "variant": self.variant.name,
            "techniques": self.variant.techniques,
            "backend": self.variant.backend,
            "precision": self.settings.artifact.precision,
            "device": self.variant.device,
            "artifact": self.settings.artifact.key,
            "batch_invariant": self.certificate.batch_invariant,
        }


def prepare(
    config: JobConfig, folder: Path, model_digest: str, fragments: tuple[Fragment, ...], report: Callable[[str], None]
) -> Prepared:
    """Draw the sample and prove the job's variant on it.

    Raises:
        GateError: neither the named variant nor the fallback passes.
    """
    columns = list(dict.fromkeys(config.source.columns.values()))
    sample = draw(fragments, FragmentReader(columns), columns, config.gate.sample_rows, CALIBRATION_ROWS)
    return Workbench(config, folder, model_digest, sample, report).prepare()


class Workbench:
    """One job's model and sample, and what is made of them on demand."""

    def __init__(
        self, config: JobConfig, folder: Path, model_digest: str, sample: Sample, report: Callable[[str], None]
    ) -> None:
        self.config = config
        self.folder = folder
        self.sample = sample
        self._report = report
        self._model = model_source.baseline_artifact(folder, model_digest)
        self._calibration_digest = digest(sample.calibration)

    def prepare(self) -> Prepared:
        """Return the first of the named variant and the fallback that passes the gate.

        Raises:
            UnavailableError: the named variant cannot run on this machine.
            GateError: none passes.
        """
        names = [self.config.variant, *([self.config.gate.fallback] if self.config.gate.fallback else [])]
        refused: list[tuple[str, str]] = []
        for variant in [require(name) for name in names]:
            settings = self.settings(variant, self.build(variant))
            certificate = self.certify(variant, settings)
            verdict = judge(self.config.gate, certificate.fidelity, certificate.batch_invariant)
            if verdict.passed:
                return Prepared(variant, settings, certificate, verdict, tuple(refused))
            refused.append((variant.name, verdict.reason))
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in refused)
        raise GateError(
            f"no variant passes the gate, nothing was scored:\n{reasons}\n"
            "lower gate.min, choose another variant, or name one that passes as gate.fallback (torch-fp32 always does)"
        )

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
        if not len(next(iter(baseline.values()), ())):
            raise NoVariantError("the sample has no row that the baseline can score; check source.columns")
        rows, replica = self._roles(self.sample.gate), Replica(settings)
        return certificates.certify(variant.name, settings, replica, rows, baseline, self.config.gate.metric, key)

    @cached_property
    def _context(self) -> BuildContext:
        family = plugins.load("families", self.config.model.family).load(str(self.folder), family_settings(self.config))
        return BuildContext(family, family.preprocess(self._roles(self.sample.calibration)))

    @cached_property
    def _baseline(self) -> Arrays:
        """The baseline's outputs for the sample, kept on disk: every variant is compared with the same ones."""
        settings = self.settings(require(BASELINE), self._model, threads=_all_threads())
        path = home.home() / "baselines" / f"{self._model.key}-{self._certificate_key(settings)}.npz"
        if not path.is_file():
            self._report(f"scoring {self.sample.gate.num_rows} sample rows with the baseline {BASELINE}")
            outputs = Replica(settings).score(self._roles(self.sample.gate)).outputs
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, allow_pickle=False, **outputs)
        with np.load(path, allow_pickle=False) as kept:
            return {name: kept[name] for name in kept.files}

    def _roles(self, table: pa.Table) -> pa.Table:
        columns = self.config.source.columns
        return pa.table({role: table.column(column) for role, column in columns.items()})

    def _certificate_key(self, settings: ReplicaSettings) -> str:
        """Identify what a measurement depends on besides the artifact."""
        shaped_by: dict[str, Any] = {
            "sample": self.sample.digest,
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
