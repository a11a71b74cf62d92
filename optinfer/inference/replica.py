"""One replica: a loaded artifact and what turns rows into its inputs and its outputs into rows.

This is what a job runs in every actor, what the gate compares and what the certificate measures: the same object, so
what is certified is what scores. Several threads may call `score`: reading and tokenizing of one fragment overlap with
the model's work on another, the model itself runs one micro-batch at a time. A replica of one thread has one core:
there preprocessing takes turns with the model, as each would push the other's data out of the core's cache.

A micro-batch that does not fit into memory is halved until it does. What was learned by that is kept: trying what did
not fit again with every fragment would cost more than slightly smaller micro-batches do.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer import plugins
from optinfer.artifact import Artifact
from optinfer.backends import Arrays, Execution
from optinfer.errors import ConfigError, LoadError, NoVariantError
from optinfer.families import Features
from optinfer.inference.dedupe import repeats
from optinfer.inference.feed import Feed, Limits, Rows
from optinfer.inference.memory import ROW_TOO_LARGE, out_of_memory
from optinfer.quiet import hush
from optinfer.tracking.metrics import Stats

Piece = tuple[Rows, Arrays]


@dataclass(frozen=True, kw_only=True)
class ReplicaSettings:
    """Everything a replica needs, small and picklable: it travels, the model loads where it runs.

    Attributes:
        family: plugin name; `family_settings` are its own.
        model: the user's model: tokenizer, preprocessing and, for torch, weights.
        backend: plugin name.
        variant: the name that is recorded with what it scored.
        max_batch_tokens: 0 takes the backend's measured best for the device.
        max_batch_size: 0 takes what suits the family's rows; a model that fixes its batch has the last word.
        dedupe: identical rows of a table are scored once.
    """

    family: str
    family_settings: dict[str, Any] = field(default_factory=dict)
    model: Artifact
    backend: str
    artifact: Artifact
    variant: str = ""
    device: str = "cpu"
    threads: int = 1
    max_batch_tokens: int = 0
    max_batch_size: int = 0
    dedupe: bool = True


@dataclass(frozen=True)
class Scored:
    """Outputs of the rows in `kept` (ascending), reasons for the others, and what it took."""

    outputs: Arrays
    kept: Rows
    rejected: dict[int, str]
    stats: Stats


class Replica:
    """Loads on construction; `clock` gives seconds and is injected in tests.

    Attributes:
        max_batch_tokens, max_batch_size: the limits in force; they shrink when a micro-batch does not fit into memory.
    """

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
        self.max_batch_tokens = settings.max_batch_tokens or backend.MAX_BATCH_TOKENS[settings.device]
        self.max_batch_size = settings.max_batch_size or self.family.max_batch_size
        if self.family.most_rows:
            self.max_batch_size = min(self.max_batch_size, self.family.most_rows)
        self._few_shapes = getattr(backend, "PREPARES_EACH_SHAPE", False)
        self._dedupe = settings.dedupe
        self._helper = ThreadPoolExecutor(1, "optinfer-feed") if settings.device != "cpu" else None
        self._answered = False
        self._clock = clock
        self._model = threading.RLock()
        one_core = on_one_core(settings.device, settings.threads)
        self._core = self._model if one_core else contextlib.nullcontext()
        self.load_seconds = clock() - started

    def score(self, table: pa.Table) -> Scored:
        """Score every row of a table with one column per role."""
        stats = Stats(rows_in=table.num_rows)
        asked = self._clock()
        with self._core:
            started = self._clock()
            repeated = repeats(table) if self._dedupe else None
            features = self.family.preprocess(repeated.without(table) if repeated else table)
            stats.preprocess_seconds = self._clock() - started
            rejected = dict(features.rejected)
            rows = np.delete(np.arange(features.rows), list(rejected))
            stats.wait_seconds, asked = started - asked, self._clock()
            with self._model:
                stats.wait_seconds += self._clock() - asked
                pieces = self._infer(features, rows, rejected, stats)
        started = self._clock()
        outputs, kept = _restore_order(pieces)
        outputs, kept = _reject_non_finite(outputs, kept, rejected)
        if repeated:
            stats.rows_deduplicated = repeated.rows_saved
            outputs, kept, rejected = repeated.spread(outputs, kept, rejected)
        stats.postprocess_seconds = self._clock() - started
        stats.rows_out, stats.rows_quarantined = len(kept), len(rejected)
        return Scored(outputs, kept, rejected, stats)

    def as_table(self, scored: Scored) -> pa.Table:
        """Return the columns the family adds, one row for each kept row."""
        if not len(scored.kept):
            return self.family.schema.empty_table()
        return self.family.postprocess(scored.outputs)

    def feed(self, features: Features, rows: Rows) -> Feed:
        """Return the micro-batches that `rows` of `features` make, as the model is given them."""
        return Feed(features, rows, self._limits, self._few_shapes, self.session, self._helper)

    def _infer(self, features: Features, rows: Rows, rejected: dict[int, str], stats: Stats) -> list[Piece]:
        pieces: list[Piece] = []
        last_refusal = ""
        with self.feed(features, rows) as feed:
            for batch in feed:
                refusal = ""
                try:
                    pieces.append((batch, self._run(feed, features, batch, feed.inputs, stats)))
                except NoVariantError:
                    raise
                except Exception as error:
                    if out_of_memory(error):
                        refusal = last_refusal = f"{type(error).__name__}: {error}"
                    else:
                        pieces += self._one_by_one(feed, features, batch, rejected, stats, error)
                if refusal:  # only here is the error gone, which held all that the failed call had allocated
                    self._make_room(feed, features, batch, rejected, stats)
                self._answered = self._answered or bool(pieces)
        if last_refusal and not self._answered and len(rows) > 1:
            raise LoadError(f"the model answers no row here: {last_refusal}")
        return pieces

    def _make_room(self, feed: Feed, features: Features, batch: Rows, rejected: dict[int, str], stats: Stats) -> None:
        """Lower the limits to half of a micro-batch that did not fit, and put it back; a row alone is rejected."""
        stats.out_of_memory += 1
        half = len(batch) // 2
        if not half:
            rejected[int(batch[0])] = ROW_TOO_LARGE
        else:
            if features.lengths is None:
                self.max_batch_size = half
            else:
                self.max_batch_tokens = half * max(feed.width(batch), 1)
            feed.put_back(batch, self._limits)
        self.session.free_memory()

    def _one_by_one(
        self,
        feed: Feed,
        features: Features,
        batch: Rows,
        rejected: dict[int, str],
        stats: Stats,
        error: Exception,
    ) -> list[Piece]:
        """Try each row of a micro-batch that failed alone: one row may have broken it, only the culprit is rejected."""
        pieces: list[Piece] = []
        for row in batch:
            alone = np.array([row])
            try:
                pieces.append((alone, self._run(feed, features, alone, partial(feed.collate, alone), stats)))
            except Exception as own:
                stats.out_of_memory += out_of_memory(own)
                rejected[int(row)] = ROW_TOO_LARGE if out_of_memory(own) else f"{type(own).__name__}: {own}"[:500]
        if not (pieces or self._answered) and len(batch) > 1:
            raise LoadError(f"the model answers no row here: {type(error).__name__}: {error}") from error
        return pieces

    def _run(self, feed: Feed, features: Features, batch: Rows, inputs: Callable[[], Any], stats: Stats) -> Arrays:
        started = self._clock()
        given = inputs()
        ready = self._clock()
        outputs: Arrays = self.session(given)
        seconds = self._clock() - ready
        stats.preprocess_seconds += ready - started
        stats.infer_seconds += seconds
        stats.micro_batches += 1
        stats.latencies.add(seconds)
        if features.lengths is not None:
            stats.tokens += int(features.lengths[batch].sum())
            stats.padded_tokens += feed.width(batch) * len(batch)
        return outputs

    @property
    def _limits(self) -> Limits:
        return self.max_batch_tokens, self.max_batch_size


def on_one_core(device: str, threads: int) -> bool:
    """Tell whether a replica has a single core, on which preprocessing and the model take turns."""
    return device == "cpu" and threads == 1


def _restore_order(pieces: list[Piece]) -> tuple[Arrays, Rows]:
    if not pieces:
        return {}, np.array([], dtype=np.int64)
    rows = np.concatenate([batch for batch, _ in pieces])
    order = np.argsort(rows)
    names = pieces[0][1]
    return {name: np.concatenate([out[name] for _, out in pieces])[order] for name in names}, rows[order]


def _reject_non_finite(outputs: Arrays, kept: Rows, rejected: dict[int, str]) -> tuple[Arrays, Rows]:
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
