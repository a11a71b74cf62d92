"""The parts of a run that is to come, each from the runs that tell most about it. Pure.

Runs of this model and variant come first, then runs of others on this kind of machine, then what is stated here with a
wide range. What a replica's process takes to start and to load the model was measured when the variant was proved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from optinfer.forecast.ranges import Estimate, learnt, learnt_ratio, stated
from optinfer.records.observation import IN_PROCESS, TUNED, Observation

STARTUP = ("prepare", "ray", "actors", "load", "first")
# How much parts are said to vary, as a share: between runs of one model, and from model to model.
_OWN, _OTHERS = 0.2, 0.5
_OWN_SPEED, _OTHERS_SPEED = 0.08, 0.25
# Nothing is known of a run here: what is stated may be so many times less or more. Ray brings up several processes, an
# actor's imports more than a trial's; a Python that starts and imports numpy takes about so long on a server of today.
_WIDE = 2.5
_PROCESS_SECONDS, _RAY_PROCESSES, _ACTOR_PROCESSES = 1.5, 2.0, 1.5
_PREPARE_SECONDS, _FIRST_SECONDS, _CLOSING_SECONDS, _RECORDING_SECONDS = 3.0, 1.0, 0.5, 1.5
# Replicas beside each other share caches and memory, and what is beside the model takes their cores, too: each does not
# quite do what one alone was measured to do. What a whole node was measured to do has all of this in it.
_SLOWER, _SLOWER_BY_UP_TO = 1.15, 1.5
_TUNED_BY_UP_TO = 1.25


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a run before it begins; seconds.

    Attributes:
        machine, where, basis, replicas, threads: as in `Observation`.
        load_seconds: of the variant, as certified; `start_seconds` of the process that it was certified in.
        prepared: what this process took to come to the proof, where it built and measured nothing; None where it did.
    """

    machine: str
    where: str
    basis: str
    replicas: int
    threads: int
    load_seconds: float
    start_seconds: float | None = None
    prepared: float | None = None


@dataclass(frozen=True)
class Past:
    """Runs that were done.

    Attributes:
        own: of this model and variant; `others` of whatever model on this kind of machine, these included.
        startup: seconds that the last run of this model and variant took to start, as earlier versions kept them;
            `startup_of_others`: the last run here, without loading its model.
    """

    own: tuple[Observation, ...] = ()
    others: tuple[Observation, ...] = ()
    startup: float | None = None
    startup_of_others: float | None = None


@dataclass
class Parts:
    """Estimates of a run's parts; `said` collects where they come from, each once."""

    past: Past
    facts: Facts
    said: list[str] = field(default_factory=list)

    def startup(self, without: Sequence[str] = ()) -> list[Estimate]:
        """Return the parts up to the first row, less some."""
        kept = self._as_kept_before()
        if kept is not None:
            return [kept, *([] if "prepare" in without else [self._part("prepare")])]
        parts = [self._part(name) for name in STARTUP if name not in without]
        self._say("start-up", "actors")
        return parts

    def closing(self, without: Sequence[str] = ()) -> list[Estimate]:
        """Return the parts after the last row, less some."""
        return [self._part(name) for name in ("closing", "recording") if name not in without]

    def slowdown(self) -> Estimate:
        """Return how many times longer rows take than was measured."""
        runs, own = self._runs(self._like, lambda run: run.slowdown)
        if not runs:
            self.said.append("no run corrects it yet")
            return self._stated_slowdown()
        estimate = learnt_ratio(runs, _OWN_SPEED if own else _OTHERS_SPEED)
        self.said.append(f"times {1 / estimate.likely:.2f}, as in {_of(runs, own)}")
        return estimate

    def _stated_slowdown(self) -> Estimate:
        if self.facts.basis == TUNED:
            return stated(1.0, _TUNED_BY_UP_TO)
        return stated(_SLOWER, _SLOWER_BY_UP_TO)

    def _like(self, run: Observation) -> bool:
        """Tell whether a run's replicas were beside as many, and what it was measured by was of the same kind."""
        facts = self.facts
        return (run.basis, run.replicas, run.threads) == (facts.basis, facts.replicas, facts.threads)

    def _part(self, name: str) -> Estimate:
        runs, own = self._runs(lambda run: True, lambda run: getattr(run, name))
        if name == "load" and runs and not own:
            ratios, _ = self._runs(lambda run: True, lambda run: run.loading)
            return learnt_ratio(ratios, _OTHERS).times(self.facts.load_seconds) if ratios else self._stated(name)
        return learnt(runs, _OWN if own else _OTHERS) if runs else self._stated(name)

    def _stated(self, name: str) -> Estimate:
        facts = self.facts
        process = facts.start_seconds or _PROCESS_SECONDS
        apart = facts.where != IN_PROCESS
        likely = {
            "prepare": facts.prepared or _PREPARE_SECONDS,
            "ray": process * _RAY_PROCESSES * apart,
            "actors": process * _ACTOR_PROCESSES * apart,
            "load": facts.load_seconds,
            "first": _FIRST_SECONDS,
            "closing": _CLOSING_SECONDS,
            "recording": _RECORDING_SECONDS,
        }
        return stated(likely[name], _WIDE)

    def _runs(
        self, like: Callable[[Observation], bool], value: Callable[[Observation], float | None]
    ) -> tuple[list[float], bool]:
        """Return what runs tell, and whether they are of this model and variant; nothing where none does."""
        for own, runs in ((True, self.past.own), (False, self.past.others)):
            alike = [run for run in runs if (run.machine, run.where) == (self.facts.machine, self.facts.where)]
            if found := [told for run in alike if like(run) and (told := value(run)) is not None]:
                return found, own
        return [], False

    def _as_kept_before(self) -> Estimate | None:
        """Return the start-up as earlier versions kept it, where no run of this one tells more."""
        runs, own = self._runs(lambda run: True, lambda run: run.actors)
        if own or self.facts.where == IN_PROCESS:
            return None
        if self.past.startup is not None:
            self.said.append("start-up as in the last run")
            return learnt([self.past.startup], _OWN)
        if runs or self.past.startup_of_others is None:
            return None
        self.said.append("start-up of other runs here, and this variant's certified loading")
        return learnt([self.past.startup_of_others + self.facts.load_seconds], _OTHERS)

    def _say(self, what: str, part: str) -> None:
        runs, own = self._runs(lambda run: True, lambda run: getattr(run, part))
        told = f"as in {_of(runs, own)}" if runs else "stated, no run here was done yet"
        self.said.append(f"{what} {told}")


def _of(runs: Sequence[float], own: bool) -> str:
    count = "a run" if len(runs) == 1 else f"{len(runs)} runs"
    return f"{count} of it here" if own else f"{count} of other models here"
