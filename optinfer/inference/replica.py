"""One replica: a loaded artifact and what turns rows into its inputs and its outputs into rows.

This is what a job runs in every actor, what the gate compares and what the certificate measures: the same object, so
what is certified is what scores. Several threads may call `score`: reading and tokenizing of one fragment overlap with
the model's work on another, the model itself runs one micro-batch at a time. A replica of one thread has one core:
there preprocessing takes turns with the model, as each would push the other's data out of the core's cache.

A micro-batch that does not fit into memory is halved until it does. What was learned by that is kept: trying what did
not fit again with every fragment would cost more than slightly smaller micro-batches do.

Bad rows are told from a replica that answers nothing by a row that it is known to answer, the canary.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.backends import BACKENDS, Arrays, Backend, Executed, Execution, Session
from optinfer.errors import ConfigError, LoadError, NoVariantError, OptinferError
from optinfer.families import FAMILIES, Family, Features
from optinfer.inference.answers import Piece, Scored, chosen, finished, finite, in_order, require_rows
from optinfer.inference.at_work import Step, UntilToldToLeave, Watch, Watchdog, unwatched
from optinfer.inference.dedupe import Repeats, comparable, repeats
from optinfer.inference.feed import Feed, Limits, Rows
from optinfer.inference.invariance import invariance
from optinfer.inference.memory import ROW_TOO_LARGE, out_of_memory
from optinfer.inference.preparing import Prepared, culprits, described, prepare
from optinfer.inference.settings import ReplicaSettings as ReplicaSettings
from optinfer.records.placement import on_one_core
from optinfer.records.stats import Stats
from optinfer.system.quiet import hush

_ALL = np.array([], dtype=np.int64)
_NOT_FINITE = "the model's output is not finite"


class Replica:
    """Loads on construction.

    Args:
        clock: gives seconds; injected in tests.
        watch: surrounds each step; whoever waits learns that this replica is alive, and where it was when it is not.
        family: what rows and answers mean; None takes the one that `settings` name.

    Attributes:
        max_batch_tokens, max_batch_size: the limits in force; they shrink when a micro-batch does not fit into memory.
    """

    def __init__(
        self,
        settings: ReplicaSettings,
        clock: Callable[[], float] = perf_counter,
        watch: Watch = unwatched,
        family: Family | None = None,
    ) -> None:
        hush()
        started = clock()
        backend = BACKENDS.get(settings.backend)
        self.family = family or FAMILIES.get(settings.family).load(settings.model, settings.family_settings)
        if settings.artifact.format not in backend.formats:
            raise ConfigError(
                f"backend {settings.backend} loads {', '.join(backend.formats)}, not {settings.artifact.format}; "
                "end the recipe with a technique that makes one of these"
            )
        execution = Execution(settings.device, settings.threads, tuple(self.family.outputs))
        self.session = self._loaded(backend, settings, execution)
        self.max_batch_tokens = settings.max_batch_tokens or backend.max_batch_tokens[settings.device]
        self.max_batch_size = settings.max_batch_size or self.family.max_batch_size
        if self.family.most_rows:
            self.max_batch_size = min(self.max_batch_size, self.family.most_rows)
        self._few_shapes = backend.prepares_each_shape
        self._dedupe = settings.dedupe
        self._settings = settings
        self._watch = watch
        self._helper = ThreadPoolExecutor(1, "optinfer-feed") if settings.device != "cpu" else None
        self._answered = False
        self._clock = clock
        self._model = threading.RLock()
        one_core = on_one_core(settings.device, settings.threads)
        self._core = self._model if one_core else contextlib.nullcontext()
        self.load_seconds = clock() - started

    def score(self, table: pa.Table) -> Scored:
        """Score every row of a table with one column per role.

        Raises:
            LoadError: the model answers no row at all, or not one entry a row.
        """
        stats = Stats(rows_in=table.num_rows)
        asked = self._clock()
        with self._core:
            started = self._clock()
            repeated = repeats(table) if self._dedupe else None
            with self._watch(Step(_ALL, table.num_rows)):
                ready = prepare(self.family, repeated.without(table) if repeated else table)
            stats.preprocess_seconds = self._clock() - started
            rejected: dict[int, str] = {}
            work = _Work(ready.features, rejected, stats, _places(ready.rows, repeated))
            stats.wait_seconds, asked = started - asked, self._clock()
            with self._model:
                stats.wait_seconds += self._clock() - asked
                pieces = self._infer(work, ready.usable)
        started = self._clock()
        outputs, kept = in_order(pieces)
        with self._watch(Step(_ALL, len(kept))):
            outputs, added, kept = self._finish(outputs, kept, rejected)
        refused = rejected or (ready.refused if self._settings.canary is not None else {})
        if refused and not len(kept):
            self._doubt(next(iter(refused.values())), len(refused))
        traits = self._traits(table, ready, repeated)
        kept, rejected = ready.rows[kept], ready.refused | {int(ready.rows[r]): why for r, why in rejected.items()}
        if repeated:
            stats.rows_deduplicated = repeated.rows_saved
            places, kept, rejected = repeated.spread(kept, rejected)
            outputs, added = chosen(outputs, places), added.take(pa.array(places))
        stats.postprocess_seconds = self._clock() - started
        stats.rows_out, stats.rows_quarantined = len(kept), len(rejected)
        return Scored(outputs, added, kept, rejected, stats, traits)

    def _traits(self, table: pa.Table, ready: Prepared, repeated: Repeats | None) -> dict[str, Rows]:
        """Return what is worth watching of all rows of the table: those that are equal share it."""
        found: dict[str, Rows] = {}
        for name, values in ready.features.traits().items():
            whole = np.full(len(repeated.first) if repeated else table.num_rows, np.nan)
            whole[ready.rows] = values
            found[name] = whole[repeated.kind] if repeated else whole
        if repeated:
            found["repeated"] = repeated.repeated.astype(np.float64)
        elif self._dedupe and comparable(table):
            found["repeated"] = np.zeros(table.num_rows)
        return found

    def answer(self, features: Features, rows: Rows, pad_to: int = 0) -> Arrays:
        """Return the model's outputs for some rows of `features` as one micro-batch, whatever the limits."""
        with self._model, self._watch(Step(_ALL, len(rows))):
            return self._outputs(features.collate(rows, pad_to=pad_to), len(rows))

    def _loaded(self, backend: Backend, settings: ReplicaSettings, execution: Execution) -> Session:
        try:
            return backend.load(settings.artifact, execution, self.family.load_module)
        except Exception as error:
            package = " ".join(f"{name} {version}" for name, version in BACKENDS.provenance(settings.backend).items())
            if isinstance(error, OptinferError) or not package:
                raise
            raise LoadError(
                f"the backend {settings.backend} of {package} cannot load the artifact: {type(error).__name__}: "
                f"{error}; that is its own code: ask whoever maintains it, or choose a variant of another backend"
            ) from error

    def _outputs(self, given: Arrays, rows: int) -> Arrays:
        """Return what the session answers to a micro-batch of so many rows, once it is what a session has to answer."""
        outputs = self.session(given)
        if not isinstance(outputs, Mapping):
            raise NoVariantError(
                f"the backend {self._settings.backend} answered a {type(outputs).__name__}, not arrays by the names of "
                "the model's outputs; see 'How to add a backend' in docs/architecture.md"
            )
        require_rows(outputs, self.family.outputs, rows)
        return outputs

    def feed(self, features: Features, rows: Rows) -> Feed:
        """Return the micro-batches that `rows` of `features` make, as the model is given them."""
        return Feed(features, rows, self.limits, self._few_shapes, self.session, self._helper)

    def _infer(self, work: _Work, rows: Rows) -> list[Piece]:
        pieces: list[Piece] = []
        last_refusal = ""
        with self.feed(work.features, rows) as feed:
            for batch in feed:
                refusal = ""
                try:
                    pieces.append((batch, self._run(feed, work, batch, feed.inputs)))
                except OptinferError:
                    raise
                except Exception as error:
                    if out_of_memory(error):
                        refusal = last_refusal = described(error)
                    else:
                        pieces += self._one_by_one(feed, work, batch, error)
                if refusal:  # only here is the error gone, which held all that the failed call had allocated
                    self._make_room(feed, work, batch)
                self._answered = self._answered or bool(pieces)
        if last_refusal and not pieces:
            self._doubt(last_refusal, len(rows))
        return pieces

    def _make_room(self, feed: Feed, work: _Work, batch: Rows) -> None:
        """Lower the limits to half of a micro-batch that did not fit, and put it back; a row alone is rejected."""
        work.stats.out_of_memory += 1
        half = len(batch) // 2
        if not half:
            work.rejected[int(batch[0])] = ROW_TOO_LARGE
        else:
            if work.features.lengths is None:
                self.max_batch_size = half
            else:
                self.max_batch_tokens = half * max(feed.width(batch), 1)
            feed.put_back(batch, self.limits)
        self.session.free_memory()

    def _one_by_one(self, feed: Feed, work: _Work, batch: Rows, error: Exception) -> list[Piece]:
        """Try each row of a micro-batch that failed alone: one row may have broken it, only the culprit is rejected."""
        if self._settings.canary is not None:
            self._doubt(described(error), len(batch))
        pieces: list[Piece] = []
        for row in batch:
            alone = np.array([row])
            try:
                pieces.append((alone, self._run(feed, work, alone, partial(feed.collate, alone))))
            except OptinferError:
                raise
            except Exception as own:
                work.stats.out_of_memory += out_of_memory(own)
                work.rejected[int(row)] = ROW_TOO_LARGE if out_of_memory(own) else described(own)
        return pieces

    def _doubt(self, reason: str, rows: int) -> None:
        """Tell rows that cannot be answered from a replica that answers none, which is no reason to reject a row.

        Raises:
            LoadError: it does not answer the canary either, or has none and has answered nothing of several rows.
        """
        if self._answered:
            return
        if self._settings.canary is not None:
            try:
                ready = prepare(self.family, self._settings.canary)
                reason = next(iter(ready.refused.values()), reason)
                if len(ready.usable):
                    finished(self.family, self.answer(ready.features, ready.usable), len(ready.usable))
                    self._answered = True
            except OptinferError:  # what is wrong may be no fault of the replica's either
                raise
            except Exception as error:
                reason = described(error)
        if not self._answered and (rows > 1 or self._settings.canary is not None):
            raise LoadError(f"the model answers no row here: {reason}")

    def _finish(self, outputs: Arrays, kept: Rows, rejected: dict[int, str]) -> tuple[Arrays, pa.Table, Rows]:
        """Return outputs, finished columns and rows of the answers that can be used; the others are rejected."""
        usable = finite(outputs, len(kept))
        if not usable.all():
            rejected |= dict.fromkeys(map(int, kept[~usable]), _NOT_FINITE)
            outputs, kept = chosen(outputs, np.flatnonzero(usable)), kept[usable]
        try:
            return outputs, finished(self.family, outputs, len(kept)), kept
        except OptinferError:
            raise
        except Exception:
            places = pa.table({"place": np.arange(len(kept))})
            refused = culprits(lambda part: self._finished(outputs, part["place"].to_numpy()), places)
            rejected |= {int(kept[place]): why for place, why in refused.items()}
            good = np.delete(np.arange(len(kept)), list(refused))
            return chosen(outputs, good), self._finished(outputs, good), kept[good]

    def _finished(self, outputs: Arrays, places: Rows) -> pa.Table:
        return finished(self.family, chosen(outputs, places), len(places))

    def _run(self, feed: Feed, work: _Work, batch: Rows, inputs: Callable[[], Any]) -> Arrays:
        with self._watch(Step(work.places(batch), len(batch))):
            started = self._clock()
            given = inputs()
            ready = self._clock()
            outputs = self._outputs(given, len(batch))
            seconds = self._clock() - ready
        stats = work.stats
        stats.preprocess_seconds += ready - started
        stats.infer_seconds += seconds
        stats.micro_batches += 1
        stats.latencies.add(seconds)
        if work.features.lengths is not None:
            stats.tokens += int(work.features.lengths[batch].sum())
            stats.padded_tokens += feed.width(batch) * len(batch)
        return outputs

    @property
    def limits(self) -> Limits:
        return self.max_batch_tokens, self.max_batch_size

    def executed(self) -> Executed:
        return self.session.executed()

    def invariance(self, sample: pa.Table, scored: Scored) -> Mapping[str, float]:
        return invariance(self, sample, scored)


def mortal(settings: ReplicaSettings, leaving: Callable[[], bool]) -> Replica:
    """Return a replica for a process that is replaced: a step that never ends takes it, and `leaving` its rows.

    See `UntilToldToLeave`.
    """
    watch = Watchdog(settings.limits) if settings.limits else unwatched
    return Replica(settings, watch=UntilToldToLeave(watch, leaving))


@dataclass(frozen=True)
class _Work:
    """What is at work in one call: features, and what becomes of their rows.

    Attributes:
        places: from rows of `features` to the rows of the table that they answer for.
    """

    features: Features
    rejected: dict[int, str]
    stats: Stats
    places: Callable[[Rows], Rows]


def _places(rows: Rows, repeated: Repeats | None) -> Callable[[Rows], Rows]:
    if repeated is None:
        return lambda batch: rows[batch]
    return lambda batch: np.flatnonzero(np.isin(repeated.kind, rows[batch]))
