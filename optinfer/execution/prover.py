"""Proves variants on nodes of the kind that will score: building and measuring run there, and the driver needs none of
what the model needs.

What a node made comes to the driver's node, by content, and from there to the nodes that score (parcels.py): the node
that proved may be gone by then. A node proves one candidate at a time, by a task that holds nothing once it has
answered; the next one finds what that left in the node's home. Where several nodes are alike and any variant may win,
they share the candidates.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic

from optinfer.config import AUTO, JobConfig
from optinfer.errors import OptinferError
from optinfer.execution import kinds
from optinfer.execution.parcels import Parcels, kept_for_others, parcels_of
from optinfer.execution.placement import Node
from optinfer.execution.ray_cluster import own_cpus
from optinfer.execution.side_by_side import Lost, SideBySide
from optinfer.execution.speaking import Say, Spoken, spoken
from optinfer.models.artifact import Artifact
from optinfer.optimization import selection
from optinfer.optimization.proving import Here, Prover, Proving
from optinfer.optimization.selection import Prepared, Skipped
from optinfer.optimization.subject import Subject
from optinfer.optimization.workbench import Workbench
from optinfer.system import last_resort

# Nodes of one kind that are tried, one after another, while they end in mid-proof.
_ATTEMPTS = 3
# What a node does on its bench.
Work = Callable[[Workbench], Iterator[Prepared | Skipped]]


@dataclass(frozen=True)
class Proved:
    """What a node answers: a proof, the model as it lies there, and how to fetch what was made."""

    prepared: Prepared
    model: Artifact
    parcels: Parcels


def prover(job: Proving, cluster: kinds.Cluster) -> Prover:
    """Return what proves the job's variants: nodes of the kind that would score; this one, where it is of that kind.

    It proves all of them where several nodes could share them.
    """
    import ray

    own = ray.get_runtime_context().get_node_id()
    kind = cluster.alike(job.subject)
    shared = len(kind) > 1 and job.subject.config.variant == AUTO
    if own in {node.name for node in kind} and not shared:
        return Here(job.counting(own_cpus()).bench(cluster.say))
    return OnItsNodes(cluster.sent(job), cluster)


class OnItsNodes:
    """Proves each pool's variants on nodes of its kind."""

    def __init__(self, job: Proving, cluster: kinds.Cluster) -> None:
        self._job, self._cluster = job, cluster

    @property
    def subject(self) -> Subject:
        return self._job.subject

    def candidates(self, config: JobConfig, only: str | None = None) -> Iterator[Prepared]:
        """Yield what `selection.candidates` does there.

        Raises:
            OptinferError: what proving raised, of its own class; or no node lived long enough.
        """
        job = self._job.for_job(config)
        if only is None and config.variant == AUTO and len(kind := self._cluster.alike(job.subject)) > 1:
            yield from self._best_of_all(job, kind)
            return
        for earlier in itertools.count():
            found = list(self._done(job, partial(_candidate, only, earlier)))
            if not found:
                return
            yield from (self._here(one) for one in found if isinstance(one, Proved))

    def everything(self, names: Sequence[str] | None = None) -> Iterator[Prepared | Skipped]:
        """Yield what `selection.prove_all` does there; raises as `candidates` does."""
        job, kind = self._job, self._cluster.alike(self._job.subject)
        shared = len(kind) > 1
        ordered = selection.in_order(job.subject.catalog, job.subject.model.format, names)
        found = self._side_by_side(job, kind, ordered) if shared else self._done(job, partial(_all, names))
        for one in found:
            yield self._here(one) if isinstance(one, Proved) else one

    def _best_of_all(self, job: Proving, kind: Sequence[Node]) -> Iterator[Prepared]:
        """Yield what was tuned, then the others as they rank once all of them are proved."""
        failed: list[Skipped] = []
        for one in self._done(job, selection.as_tuned) if job.any_tuned else ():
            if isinstance(one, Proved):
                yield self._here(one)
            else:
                failed.append(one)
        catalog, config = job.subject.catalog, job.subject.config
        likely = selection.in_order(catalog, job.subject.model.format, selection.likely(catalog))
        found = list(self._side_by_side(job, kind, likely, config.selection.time_budget))
        proved = {one.prepared.variant.name: one for one in found if isinstance(one, Proved)}
        results = [one.prepared if isinstance(one, Proved) else one for one in found]
        for best in selection.best_first(results, job.subject.model.format, failed):
            yield self._here(replace(proved[best.variant.name], prepared=best))

    def _side_by_side(
        self, job: Proving, kind: Sequence[Node], names: Sequence[str], time_budget: float | None = None
    ) -> Iterator[Proved | Skipped]:
        """Yield what nodes make of the variants, in this order.

        Args:
            time_budget: as `selection.prove_all` has it.
        """
        began, passed = monotonic(), False
        self._cluster.say(f"proving {len(names)} variants on {len(kind)} nodes that are alike")

        def work(node: Node, name: str) -> Proved | Skipped:
            nonlocal passed
            if passed and time_budget is not None and monotonic() - began > time_budget:
                return selection.out_of_time(name)
            try:
                (one,) = self._asked(job, node, partial(_all, [name]))
            except Lost as error:
                self._cluster.say(f"node {node.name[:8]} was lost while it proved {name}: {error}")
                raise
            passed = passed or (isinstance(one, Proved) and one.prepared.gate.passed)
            return one

        yield from SideBySide(names, kind, work).results()

    def _done(self, job: Proving, work: Work) -> Iterator[Proved | Skipped]:
        """Yield what a node makes of the work; where it ends before it has found anything, the next one does it."""
        lost = ""
        anywhere: list[Node | None] = [None] * _ATTEMPTS  # where there is none yet, the first that comes
        for node in self._cluster.alike(job.subject)[:_ATTEMPTS] or anywhere:
            self._cluster.say(f"proving on {f'node {node.name[:8]}' if node else 'the first node that is free for it'}")
            begun = False
            try:
                for found in self._asked(job, node, work):
                    begun = True
                    yield found
                return
            except Lost as error:
                lost = str(error)
                if begun:
                    break
        raise OptinferError(
            f"no node that could prove the job's variants lived long enough: {lost}; check their memory "
            "(`ray memory`, `ray list nodes`), then run the same command again"
        )

    def _asked(self, job: Proving, node: Node | None, work: Work) -> Iterator[Proved | Skipped]:
        """Yield what a node makes of the work, as it comes."""
        import ray

        config, device = job.subject.config, self._cluster.device(job.subject)
        options = {"num_returns": "streaming", "max_retries": 0, **kinds.share(config, device, node)}
        asking = ray.remote(_prove).options(**options)
        try:
            answers = asking.remote(job, parcels_of(job.subject.model), work)
            yield from self._cluster.listener.heard(answers, kinds.described(config, device))
        except ray.exceptions.RayError as error:
            raise Lost(last_resort.named(error)) from error

    def _here(self, found: Proved) -> Prepared:
        """Return a proof with what a node made on this one."""
        here = replace(found.parcels, at_hand={found.model.path: self.subject.model.path})
        return replace(found.prepared, settings=here.placed(found.prepared.settings))


def _prove(job: Proving, files: Parcels, work: Work) -> Iterator[Spoken]:
    """Do the work on this node, and say what it makes: Proved and Skipped."""
    yield from spoken(partial(_proved, job, files, work))


def _proved(job: Proving, files: Parcels, work: Work, say: Say) -> Iterator[Proved | Skipped]:
    model = files.artifact(job.subject.model)
    bench = job.on(model).counting(own_cpus()).bench(say)
    for one in work(bench):
        yield Proved(one, model, kept_for_others(one.settings)) if isinstance(one, Prepared) else one


def _candidate(only: str | None, earlier: int, bench: Workbench) -> Iterator[Prepared]:
    """Yield the candidate that comes after so many; nothing where there are no more."""
    return itertools.islice(selection.candidates(bench, only), earlier, earlier + 1)


def _all(names: Sequence[str] | None, bench: Workbench) -> Iterator[Prepared | Skipped]:
    return selection.prove_all(bench, names)
