"""One replica: a loaded artifact and what turns rows into its inputs and its outputs into rows.

This is what a job runs in every actor, what the gate compares and what the certificate measures: the same object, so
what is certified is what scores. Several threads may call `score`: reading and tokenizing of one fragment overlap with
the model's work on another, the model itself runs one micro-batch at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer import plugins
from optinfer.artifact import Artifact
from optinfer.backends import Arrays, Execution
from optinfer.errors import ConfigError, LoadError, NoVariantError
from optinfer.families import Features
from optinfer.inference.batching import micro_batches
from optinfer.quiet import hush
from optinfer.tracking.metrics import Stats


@dataclass(frozen=True, kw_only=True)
class ReplicaSettings:
    """Everything a replica needs, small and picklable: it travels, the model loads where it runs.

    Attributes:
        family: plugin name; `family_settings` are its own.
        model: the user's model: tokenizer, preprocessing and, for torch, weights.
        backend: plugin name.
        max_batch_tokens: 0 takes the backend's measured best for the device.
        max_batch_size: 0 takes what suits the family's rows; a model that fixes its batch has the last word.
    """

    family: str
    family_settings: dict[str, Any] = field(default_factory=dict)
    model: Artifact
    backend: str
    artifact: Artifact
    device: str = "cpu"
    threads: int = 1
    max_batch_tokens: int = 0
    max_batch_size: int = 0


@dataclass(frozen=True)
class Scored:
    """Outputs of the rows in `kept` (ascending), reasons for the others, and what it took."""

    outputs: Arrays
    kept: np.ndarray[Any, Any]
    rejected: dict[int, str]
    stats: Stats


class Replica:
    """Loads on construction; `clock` gives seconds and is injected in tests."""

    def __init__(self, settings: ReplicaSettings, clock: Callable[[], float] = perf_counter) -> None:
        hush()
        started = clock()
        family = plugins.load("families", settings.family)
        backend = plugins.load("backends", settings.backend)
        self.family = family.load(settings.model, settings.family_settings)
        if settings.artifact.format not in backend.FORMATS:
            raise ConfigError(
                f"backend {settings.backend} loads {', '.join(backend.FORMATS)}, not {settings.artifact.format}; "
                "end the recipe with a technique that makes one of these"
            )
        execution = Execution(settings.device, settings.threads, tuple(self.family.outputs))
        self.session = backend.load(settings.artifact, execution, self.family.load_module)
        self._max_batch_tokens = settings.max_batch_tokens or backend.MAX_BATCH_TOKENS[settings.device]
        self.max_batch_size = settings.max_batch_size or self.family.max_batch_size
        if self.family.most_rows:
            self.max_batch_size = min(self.max_batch_size, self.family.most_rows)
        self._answered = False
        self._clock = clock
        self._model = threading.Lock()
        self.load_seconds = clock() - started

    def score(self, table: pa.Table) -> Scored:
        """Score every row of a table with one column per role."""
        stats = Stats(rows_in=table.num_rows)
        started = self._clock()
        features = self.family.preprocess(table)
        stats.preprocess_seconds = self._clock() - started
        rejected = dict(features.rejected)
        rows = np.array([i for i in range(features.rows) if i not in rejected], dtype=np.int64)
        started = self._clock()
        with self._model:
            stats.wait_seconds = self._clock() - started
            pieces = self._infer(features, rows, rejected, stats)
        started = self._clock()
        outputs, kept = _restore_order(pieces)
        outputs, kept = _reject_non_finite(outputs, kept, rejected)
        stats.postprocess_seconds = self._clock() - started
        stats.rows_out, stats.rows_quarantined = len(kept), len(rejected)
        return Scored(outputs, kept, rejected, stats)

    def as_table(self, scored: Scored) -> pa.Table:
        """Return the columns the family adds, one row for each kept row."""
        if not len(scored.kept):
            return self.family.schema.empty_table()
        return self.family.postprocess(scored.outputs)

    def _infer(
        self, features: Features, rows: np.ndarray[Any, Any], rejected: dict[int, str], stats: Stats
    ) -> list[tuple[np.ndarray[Any, Any], Arrays]]:
        pieces = []
        limits = (self._max_batch_tokens, self.max_batch_size, features.same_length)
        for batch in micro_batches(rows, features.lengths, *limits):
            try:
                pieces.append((batch, self._run(features, batch, stats)))
            except NoVariantError:
                raise
            except Exception as error:
                alone = self._one_by_one(features, batch, rejected, stats)
                if not (alone or self._answered) and len(batch) > 1:
                    raise LoadError(f"the model answers no row here: {type(error).__name__}: {error}") from error
                pieces += alone
            self._answered = self._answered or bool(pieces)
        return pieces

    def _one_by_one(
        self, features: Features, batch: np.ndarray[Any, Any], rejected: dict[int, str], stats: Stats
    ) -> list[tuple[np.ndarray[Any, Any], Arrays]]:
        """Try each row of a micro-batch that failed alone: one row may have broken it, only the culprit is rejected."""
        pieces = []
        for row in batch:
            alone = np.array([row])
            try:
                pieces.append((alone, self._run(features, alone, stats)))
            except Exception as error:
                rejected[int(row)] = f"{type(error).__name__}: {error}"[:500]
        return pieces

    def _run(self, features: Features, batch: np.ndarray[Any, Any], stats: Stats) -> Arrays:
        inputs = features.collate(batch)
        started = self._clock()
        outputs: Arrays = self.session(inputs)
        seconds = self._clock() - started
        stats.infer_seconds += seconds
        stats.micro_batches += 1
        stats.latencies.add(seconds)
        if features.lengths is not None:
            lengths = features.lengths[batch]
            stats.tokens += int(lengths.sum())
            stats.padded_tokens += int(lengths.max()) * len(batch)
        return outputs


def _restore_order(pieces: list[tuple[np.ndarray[Any, Any], Arrays]]) -> tuple[Arrays, np.ndarray[Any, Any]]:
    if not pieces:
        return {}, np.array([], dtype=np.int64)
    rows = np.concatenate([batch for batch, _ in pieces])
    order = np.argsort(rows)
    names = pieces[0][1]
    return {name: np.concatenate([out[name] for _, out in pieces])[order] for name in names}, rows[order]


def _reject_non_finite(
    outputs: Arrays, kept: np.ndarray[Any, Any], rejected: dict[int, str]
) -> tuple[Arrays, np.ndarray[Any, Any]]:
    """Reject rows with NaN or infinity: a vector nobody can use must not pass for an answer."""
    finite = np.ones(len(kept), dtype=bool)
    for values in outputs.values():
        if np.issubdtype(values.dtype, np.floating):
            finite &= np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    for row in kept[~finite]:
        rejected[int(row)] = "the model's output is not finite"
    if finite.all():
        return outputs, kept
    return {name: values[finite] for name, values in outputs.items()}, kept[finite]
