"""What scored the parts of an output, once more: one variant, or every arm of an experiment, each in a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import pyarrow as pa

from optinfer.commands.arms import jobs_of_arms
from optinfer.commands.finished import Finished
from optinfer.commands.scorer import Scorer, scorer_of
from optinfer.commands.subject_of import subject_of
from optinfer.config import CONTROL
from optinfer.execution.arms import Arm, Experiment
from optinfer.families import as_roles
from optinfer.inference.answers import Scored
from optinfer.inference.isolation import IsolatedReplica
from optinfer.optimization.variants import catalog
from optinfer.records.binding import Bound
from optinfer.records.inspection import Changed
from optinfer.records.part import Part

_Each = Mapping[str, tuple[Scorer, IsolatedReplica]]


@dataclass(frozen=True)
class PartScorer:
    """What scores the rows of a part: by arm, the control first; without an experiment that is all."""

    done: Finished
    each: _Each

    @property
    def tolerance(self) -> float:
        """How far a number may move without being another answer; the arms' widest."""
        return max(scorer.tolerance for scorer, _ in self.each.values())

    def score(self, table: pa.Table) -> Scored:
        """Return the answers of now to rows of the source, of each by its own arm."""
        replicas, experiment = [replica for _, replica in self.each.values()], self._experiment
        if experiment is None:
            return replicas[0].score(self._roles(table))
        return experiment.scored(experiment.dealt(table), self._roles, lambda arm, roles: replicas[arm].score(roles))

    def _roles(self, table: pa.Table) -> pa.Table:
        return as_roles(table, self.done.config.source.columns)

    @property
    def _experiment(self) -> Experiment | None:
        config = self.done.config.experiment
        if config.key is None:
            return None
        arms = [
            Arm(name, config.arms[name].share, scorer.settings)
            for name, (scorer, _) in self.each.items()
            if name != CONTROL
        ]
        return Experiment(config.name, config.key, config.column, CONTROL, tuple(arms))


class Scorers:
    """What scored the parts of an output, each found and loaded once.

    Args:
        stack: ends what was loaded.
    """

    def __init__(self, done: Finished, stack: ExitStack, say: Callable[[str], None]) -> None:
        self._done, self._stack, self._say = done, stack, say
        self._found: dict[tuple[str, str], PartScorer] = {}

    def of(self, made: Part) -> PartScorer:
        """Return what scored a part.

        Raises:
            ConfigError: its variant is not known here, or its artifact can be neither found nor built.
        """
        bound = _bound_to(self._done, made)
        key = bound.variant, bound.artifact
        if key not in self._found:
            self._found[key] = PartScorer(self._done, self._each(bound))
        return self._found[key]

    @property
    def found(self) -> list[Scorer]:
        """Those that were asked for."""
        return [scorer for part in self._found.values() for scorer, _ in part.each.values()]

    @property
    def changed(self) -> tuple[Changed, ...]:
        """What is not as it was, of all of them, once."""
        return tuple(dict.fromkeys(one for scorer in self.found for one in scorer.changed))

    def _each(self, bound: Bound) -> _Each:
        done, subjects = self._done, {CONTROL: self._done.subject}
        for name, job in jobs_of_arms(done.config).items():
            subjects[name] = subject_of(job, done.subject.source, catalog(job))
        each = {}
        for (name, subject), one in zip(subjects.items(), (bound, *bound.arms), strict=True):
            scorer = scorer_of(done, subject, one, "" if name == CONTROL else name, self._say)
            each[name] = scorer, self._stack.enter_context(IsolatedReplica(scorer.settings))
        return each


def _bound_to(done: Finished, made: Part) -> Bound:
    """Return what a part is bound to; by its variant, and what the whole is bound to where an early part has none."""
    known = done.output.binding.bound()
    found = next((one for one in known if made.variant in (None, one.variant)), None)
    return found or Bound(variant=made.variant or done.manifest.run.variant, artifact=made.artifact or "")
