"""The actor's work on one fragment, without Ray: read, score, commit, and say what came of it.

Two threads call it at a time, so one fragment's reading and committing overlap with another's time in the model.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from time import perf_counter

import pyarrow as pa

from optinfer.data.fragments import Fragment
from optinfer.errors import (
    CorruptFileError,
    LoadError,
    NoVariantError,
    RowError,
    UnfitNodeError,
    redact,
)
from optinfer.execution.attempt import Attempt
from optinfer.execution.contents import Contents, Earlier, contents, unreadable
from optinfer.execution.loading import Load, Loading, require_admitted
from optinfer.execution.task import MakeMeter, Meter, Nodes, OneNode, ScoringTask
from optinfer.inference.at_work import Unneeded
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.records.part import Part
from optinfer.records.receipt import Receipt
from optinfer.records.stats import Stats
from optinfer.system import last_resort
from optinfer.system.machine import peak_rss_mb

_log = logging.getLogger(__name__)
_ONE_NODE = OneNode()


def _unmetered(labels: Mapping[str, str]) -> Meter:
    return lambda receipt: None


class FragmentScorer:
    """The actor: one replica."""

    def __init__(
        self,
        task: ScoringTask,
        settings: ReplicaSettings | None = None,
        load: Load = Replica,
        meter: MakeMeter = _unmetered,
        nodes: Nodes = _ONE_NODE,
    ) -> None:
        """Begin to load the model.

        Args:
            settings: the replica; None takes the task's for what Ray gave this actor.
            load: makes the engine.
            meter: makes what counts this replica's work.
            nodes: knows which nodes leave.
        """
        self._load_started = time.time()
        self._node = _node_name()
        self._task = task
        self._settings = settings or _own_settings(task)
        self._nodes = nodes
        self._artifact = task.artifact(self._settings)
        arms = [arm.settings for arm in task.experiment.arms] if task.experiment else []
        for loaded in (self._settings, *arms):
            require_admitted(loaded, nodes)
        self._sink = task.output()
        self._reader = task.reader()
        self._count = _Unfailing(meter, task.labels(self._settings))
        self._loading = Loading(load, self._settings, task.place)
        self._each = [self._loading, *(Loading(load, settings, task.place) for settings in arms)]
        self._attempt = Attempt(task, nodes, self._each, self._put_before)
        self._at_hand, self._free = 0, threading.Condition()

    def __call__(self, row: Mapping[str, str]) -> dict[str, str]:
        """Score a run of fragments, one after another, up to the first error.

        An error comes back as a value, so that the driver sees it as it was.
        """
        answers: list[Mapping[str, object]] = []
        for named in json.loads(row["run"]):
            try:
                with self._one_more_at_hand():
                    answers.append(self._score(Fragment(**named["fragment"]), named["part"]).told())
            except UnfitNodeError as error:
                self._nodes.refuse(str(error))
                answers.append(_told(error))
                break
            except Unneeded:
                self._leave()
            except NoVariantError as error:
                # It loaded, and cannot run: what is compiled on the first call, say.
                answers.append(_told(LoadError(str(error))))
                break
            except Exception as error:
                answers.append(_told(error))
                break
        return {"receipts": json.dumps(answers)}

    @contextlib.contextmanager
    def _one_more_at_hand(self) -> Iterator[None]:
        """Have a fragment at hand for a `with` block; on a node that leaves, take none."""
        with self._free:
            if self._nodes.leaving():
                self._leave()
            self._at_hand += 1
        try:
            yield
        finally:
            with self._free:
                self._at_hand -= 1
                self._free.notify_all()

    def _leave(self) -> None:
        """End when no fragment is at hand: what is in the model is given back, what is being put comes to its end."""
        with self._free:
            self._free.wait_for(lambda: self._at_hand == 0)
            self._nodes.leave()

    def _score(self, fragment: Fragment, part: str) -> Receipt:
        done = self._sink.read([part])[0] if self._task.retry else None
        # A part holds one variant's answers: where two score a job, another replica's rows are left to its like.
        if done and not (done.rows_quarantined and done.artifact == self._artifact):
            return self._receipt(part, done, {}, Stats(rows_in=fragment.rows))
        started = perf_counter()
        try:
            table = self._task.with_arms(self._reader.read(fragment))
        except CorruptFileError as error:
            if self._task.on_bad_file == "raise":
                raise
            if done:
                return self._receipt(part, done, {str(error): done.rows_quarantined}, Stats(rows_in=fragment.rows))
            return self._commit(fragment, part, unreadable(self._task, self._answers, fragment, str(error)), Stats())
        read_seconds = perf_counter() - started
        earlier = Earlier.of(self._task, fragment, *self._sink.rows(part, done)) if done else None
        left = earlier.left(table) if earlier else table
        scored, before = self._attempt.answers(part, left, bool(done))
        if isinstance(scored, Part):
            return self._receipt(part, scored, {}, Stats(rows_in=fragment.rows))
        scored = earlier.with_answers(scored, self._answers) if earlier else scored
        if scored.rejected and self._task.on_error == "raise":
            row, reason = min(scored.rejected.items())
            raise RowError(
                f"row {fragment.start + row} of {redact(fragment.path)} cannot be scored: {reason}; "
                "correct it, or set sink.on_error: quarantine to go on without it"
            )
        scored.stats.read_seconds = read_seconds
        made = contents(self._task, self._answers, fragment, table, scored)
        return replace(self._commit(fragment, part, made, scored.stats, done), taken_over=before)

    @property
    def _answers(self) -> pa.Schema:
        """The columns that a row gains; waits for the model."""
        return self._loading.engine.family.schema

    def _put_before(self, part: str) -> Part | None:
        """Return the part that an attempt had come to put.

        Only what this job would make: of any other, committing it again says what differs.
        """
        made = self._sink.read([part])[0]
        ours = made and made.fingerprint == self._task.fingerprint and made.artifact in self._task.artifacts
        return made if ours else None

    def _commit(self, fragment: Fragment, part: str, made: Contents, stats: Stats, done: Part | None = None) -> Receipt:
        """Put a part, or put it in the place of one that is there."""
        started = perf_counter()
        ours = Part(
            fragment=fragment.index,
            fingerprint=self._task.fingerprint,
            artifact=self._artifact,
            variant=self._settings.variant,
            rows_in=fragment.rows,
            rows_in_place=made.in_place,
            sketch=done.sketch if done else made.sketch,
        )
        if done is None:
            there = self._sink.put(part, ours, made.rows, made.aside, self._task.artifacts)
        elif len(made.rejected) == done.rows_quarantined:
            there = done  # as it was
        else:
            there = self._sink.replace(part, done, ours, made.rows, made.aside)
        stats.rows_in, stats.commit_seconds = fragment.rows, perf_counter() - started
        reasons = dict(Counter(made.rejected.values())) if there.variant == ours.variant else {}
        return self._receipt(part, there, reasons, stats)

    def _receipt(self, part: str, made: Part, reasons: dict[str, int], stats: Stats) -> Receipt:
        stats.rows_out, stats.rows_quarantined = made.rows_out, made.rows_quarantined
        stats.bytes_out = made.bytes or 0
        tokens, size = self._loading.engine.limits
        receipt = Receipt(
            part=part,
            made=made if made.variant else replace(made, variant=self._settings.variant),  # older parts do not say
            stats=stats,
            reasons=reasons,
            replica=f"{os.getpid()}@{self._node}",
            node=self._node,
            load_started=self._load_started,
            load_seconds=sum(loading.engine.load_seconds for loading in self._each),
            committed=time.time(),
            peak_rss_mb=peak_rss_mb(),
            max_batch_tokens=tokens,
            max_batch_size=size,
        )
        self._count(receipt)
        return receipt


class _Unfailing:
    """A meter that fails is said once and asked no more: it is no fault of the rows."""

    def __init__(self, make: MakeMeter, labels: Mapping[str, str]) -> None:
        self._make, self._labels = make, labels
        self._meter: Meter | None = None
        self._turn = threading.Lock()

    def __call__(self, receipt: Receipt) -> None:
        with self._turn:
            try:
                self._meter = self._meter or self._make(self._labels)
                self._meter(receipt)
            except Exception as error:
                _log.warning("this replica's metrics end here: %s", last_resort.named(error))
                self._meter = _unmetered(self._labels)


def receipts(answer: Mapping[str, str]) -> Iterator[Receipt]:
    """Yield the receipts in an actor's answer.

    Raises:
        OptinferError: what ended the actor's run of fragments, of its own class.
    """
    for raw in json.loads(answer["receipts"]):
        if "error" in raw:
            raise last_resort.again(raw)
        yield Receipt.heard(raw)


def _own_settings(task: ScoringTask) -> ReplicaSettings:
    """Return the replica of this actor, by whether Ray gave it a GPU."""
    return task.pools[0] if len(task.pools) == 1 else task.settings(gpu=_has_gpu())


def _has_gpu() -> bool:
    import ray

    return bool(ray.get_runtime_context().get_accelerator_ids()["GPU"])


def _node_name() -> str:
    """Name the machine, and the Ray node where this is an actor: several may run on one machine."""
    ray = sys.modules.get("ray")
    here = socket.gethostname()
    if ray is None or not ray.is_initialized():
        return here
    return f"{here}/{ray.get_runtime_context().get_node_id()[:8]}"


def _told(error: Exception) -> dict[str, str]:
    return last_resort.told(error, f"a replica on {socket.gethostname()} failed: ")
