"""Prepare: one job's model and sample on a workbench, where variants are built and certified on demand."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from optinfer.config import JobConfig
from optinfer.families import Family
from optinfer.inference.settings import ReplicaSettings
from optinfer.models.artifact import Artifact
from optinfer.optimization import baseline as baselines
from optinfer.optimization import kept
from optinfer.optimization.baseline import Answers, require_sound
from optinfer.optimization.build import BuildContext, build, cached, keys
from optinfer.optimization.certificate import Certificate, Exam, conditions
from optinfer.optimization.job_sample import JobSample
from optinfer.optimization.subject import Subject
from optinfer.optimization.trial import APART, Trials
from optinfer.optimization.variants import BASELINES, Catalog, Variant, require
from optinfer.records.tuning import NO_LENGTHS, Lengths, Tuned
from optinfer.system.heartbeat import telling

# (model, job, metric, lengths, CPUs of the node) -> what was tuned for such a job
LookUp = Callable[[str, JobConfig, str, Lengths, int], Tuned | None]

# Raised when certificates hold other facts: older ones are then measured anew.
_LAYOUT = 5
_SHORTEST_TRIAL = 600.0


class Workbench:
    """One job's model and sample, and what is made of them on demand."""

    def __init__(
        self,
        subject: Subject,
        sample: JobSample,
        say: Callable[[str], None],
        look_up: LookUp,
        trials: Trials = APART,
        *,
        again: bool = False,
        cpus: int | None = None,
    ) -> None:
        """Set up the bench.

        Args:
            subject: the job's model and variants.
            sample: of its rows.
            say: is told, line by line, what is going on.
            look_up: finds what was tuned for such a job.
            trials: where candidates are tried.
            again: what others than this bench measured counts for nothing.
            cpus: those that replicas share on this node; None takes all.
        """
        self.subject, self.model = subject, subject.keyed
        self.sample = sample
        self.cpus = os.cpu_count() or 1 if cpus is None else cpus
        self.say, self._look_up, self._trials = say, look_up, trials
        self._found: tuple[Tuned | None] | None = None
        self._again, self._measured = again, set[tuple[str, str]]()

    def for_job(self, config: JobConfig) -> Workbench:
        """Return this bench for a job that differs only in which variants it allows."""
        other = copy(self)
        other.subject = self.subject.for_job(config)
        other._found = None  # what `tune` found is kept by what the job fixes
        return other

    @property
    def config(self) -> JobConfig:
        return self.subject.config

    @property
    def catalog(self) -> Catalog:
        return self.subject.catalog

    @property
    def family(self) -> Family:
        return self.subject.family

    def build(self, variant: Variant) -> Artifact:
        with telling(self.say) as tell:
            return build(variant, self.model, self.sample.calibration_digest, lambda: self._context, tell)

    def cached(self, variant: Variant) -> Artifact | None:
        """Return the variant's artifact if it was built before."""
        return cached(variant, self.model, self.sample.calibration_digest)

    def settings(
        self, variant: Variant, artifact: Artifact, threads: int = 1, tuned: Tuned | None = None
    ) -> ReplicaSettings:
        """Describe a replica; `tuned` sets what the job leaves to optinfer."""
        return self.subject.replica(variant, artifact, threads, tuned)

    def certificate(self, settings: ReplicaSettings) -> Certificate | None:
        """Return what was measured of these settings before, on the same sample."""
        key = self._certificate_key(settings)
        if self._again and (settings.artifact.key, key) not in self._measured:
            return None
        return kept.read(settings, key)

    def certify(self, variant: Variant, settings: ReplicaSettings) -> Certificate:
        if found := self.certificate(settings):
            return found
        baseline = self.baseline
        exam = Exam(
            self.sample.roles(self.sample.gate),
            self.sample.labels,
            baseline,
            self.metric,
            self._certificate_key(settings),
        )
        with telling(self.say) as tell:
            tell(f"certifying {variant.name} on {self.sample.gate.num_rows} rows")
            measured = self._trials.certify(variant.name, settings, exam, self._longest_trial)
        self._measured.add((settings.artifact.key, exam.key))
        return kept.put(measured, settings, anew=self._again)

    def probe(self, variant: Variant) -> tuple[float, ...]:
        """Return rows per second of a few passes over a few micro-batches of the sample; build what is lacking."""
        settings = replace(self.settings(variant, self.build(variant)), canary=self.canary)
        with telling(self.say) as tell:
            tell(f"probing {variant.name}", silently=True)
            most = settings.max_batch_size or self.family.max_batch_size
            batches = self.sample.micro_batches(self.baseline.kept, most, settings.device)
            return self._trials.probe(settings, batches, self._longest_trial)

    @property
    def _longest_trial(self) -> float:
        return max(self.config.selection.time_budget, _SHORTEST_TRIAL)

    def race_key(self, variants: Sequence[Variant]) -> str:
        """Identify what a race of these variants depends on."""
        shaped_by = [
            [v.name, *keys(v, self.model.key, self.sample.calibration_digest), self._speed_key(v)] for v in variants
        ]
        return hashlib.sha256(json.dumps(shaped_by).encode()).hexdigest()[:16]

    def _speed_key(self, variant: Variant) -> str:
        return self._certificate_key(self.settings(variant, self.model))

    @property
    def metric(self) -> str:
        return self.subject.metric

    @cached_property
    def lengths(self) -> Lengths:
        """The tokens that the sample's rows take; none while nobody knows which of them can be scored at all."""
        known = self.__dict__.get("baseline") or baselines.read(self._baseline_path)
        if known is None:
            return NO_LENGTHS
        return self.sample.lengths_of(self.sample.gate.take(pa.array(known.kept)))

    @property
    def tuned(self) -> Tuned | None:
        """What `tune` found for jobs like this one; None where it found nothing, or with other packages than here."""
        if self._found is None:
            self._found = (self._usable(),)
        return self._found[0]

    def _usable(self) -> Tuned | None:
        found = self._look_up(self.model.key, self.config, self.metric, self.lengths, self.cpus)
        if found and found.stale:
            self.say(f"what `optinfer tune` found is not used: measured with {found.stale}; run it again")
            return None
        return found

    @cached_property
    def _context(self) -> BuildContext:
        rows = self.sample.roles(self.sample.calibration)
        if rows.num_rows:  # techniques run the model on them in this process, which none of them may end
            rows = rows.take(pa.array(self._trials.kept(self._baseline_settings, rows)))
        return BuildContext(self.family, self.sample.features(rows))

    @cached_property
    def baseline(self) -> Answers:
        """The baseline's outputs for the sample, kept on disk: every variant is compared with the same ones.

        Raises:
            NoVariantError: it can score none of its rows.
            GateError: it is not what the model's own library makes of the model.
        """
        found = baselines.read(self._baseline_path)
        if found is None:
            variant, rows = BASELINES[self.model.format], self.sample.gate.num_rows
            with telling(self.say) as tell:
                tell(f"scoring {rows} sample rows with the baseline {variant}")
                found = self._trials.answers(self._baseline_settings, self.sample.roles(self.sample.gate), tell)
            baselines.keep(self._baseline_path, found)
            self.say(found.reference.said)
        require_sound(found, self.config.gate)
        return found

    @property
    def canary(self) -> pa.Table:
        """One row that the model is known to answer."""
        return self.sample.roles(self.sample.gate).take(pa.array(self.baseline.kept[:1]))

    @property
    def _baseline_settings(self) -> ReplicaSettings:
        variant = require(BASELINES[self.model.format], self.catalog)
        return self.settings(variant, self.model, threads=os.cpu_count() or 1)

    @property
    def _baseline_path(self) -> Path:
        key = self._certificate_key(self._baseline_settings)
        return baselines.path(self.model.key, key)

    def _certificate_key(self, settings: ReplicaSettings) -> str:
        """Identify what a measurement depends on besides the artifact."""
        labels = self.sample.labels
        shaped_by = {
            "layout": _LAYOUT,
            "sample": self.sample.gate_digest,
            "labels": None if labels is None else labels.tolist(),
            "metric": self.metric,
            **conditions(settings, self.family.libraries),
        }
        return hashlib.sha256(json.dumps(shaped_by, sort_keys=True).encode()).hexdigest()[:16]
