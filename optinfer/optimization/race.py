"""The race of `variant: auto`: which candidate to probe or prove next, and which can no longer win. Plain values only.

Each candidate runs a short probe, those first that this kind of machine is known to like and that are quickly built.
One of which little is known is always probed. One that is known to stay below the leader is not, and no other than the
leader is proved: what comes next in line is, where the leader falls. Nothing is remembered about a fall but the fall
itself, so whoever could only be beaten by the fallen one is in the race again.

Noise only ever slows: of several probes of a candidate the best counts. The baseline is probed twice; where the two
disagree, the machine is busy with something else, and whoever may win is probed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from statistics import median

# Of two that are as close as this, the one that is proved or whole already is taken.
WITHIN = 0.03
# Two probes of the baseline that differ by more saw another machine.
_AGREE = 0.06
_MOST_ROUNDS = 3
# What is known of one model says so much of another: a candidate may be this many times faster than expected.
_AT_MOST = 1.5
# What the first that needs it pays for all, an export above all.
_SHARED_SECONDS = 20.0


class Why(StrEnum):
    """Why a candidate was not chosen."""

    UNAVAILABLE = "unavailable"
    OTHER_DEVICE = "other device"
    UNPROVABLE = "could not be proved"
    BELOW_GATE = "does not pass the gate"
    SLOWER = "slower"
    CANNOT_WIN = "cannot win"
    OUT_OF_TIME = "out of time"
    TUNED = "another was tuned"


@dataclass(frozen=True)
class Dropped:
    """A candidate that was not chosen; `reason` is for people."""

    name: str
    why: Why
    reason: str


@dataclass(frozen=True)
class Entrant:
    """A candidate.

    Attributes:
        expected: how many times as fast as the baseline it is on such machines; None where nobody knows.
        slow: to build it, or its first call, takes long.
        drafted: it is probed as a draft, which is built sooner and runs as fast, and has to be built for its proof.
        seconds: that building and probing it may take.
    """

    name: str
    expected: float | None = None
    slow: bool = False
    drafted: bool = False
    seconds: float = 10.0


@dataclass(frozen=True)
class Probe:
    """Rows per second of a few passes over the same few micro-batches; `draft`: of a draft."""

    speeds: tuple[float, ...]
    draft: bool = False

    @property
    def middle(self) -> float:
        return median(self.speeds)


@dataclass(frozen=True)
class Measure:
    """Probe a candidate: its draft, or what is built in full."""

    name: str
    draft: bool


@dataclass(frozen=True)
class Prove:
    """Build a candidate in full, and prove it."""

    name: str


@dataclass(frozen=True)
class Choose:
    """The race is decided."""

    name: str


Step = Measure | Prove | Choose


@dataclass(frozen=True)
class Race:
    """What is known so far; the baseline is the first of the entrants.

    Attributes:
        probes: of each candidate, in the order in which they were made.
        out: those that cannot be chosen any more.
        proved: those that passed.
        out_of_time: nothing new is begun, as long as there is a leader.
    """

    entrants: tuple[Entrant, ...]
    probes: Mapping[str, tuple[Probe, ...]] = field(default_factory=dict)
    out: Mapping[str, Dropped] = field(default_factory=dict)
    proved: frozenset[str] = frozenset()
    out_of_time: bool = False

    def measured(self, name: str, probe: Probe) -> Race:
        return replace(self, probes={**self.probes, name: (*self.probes.get(name, ()), probe)})

    def without(self, dropped: Dropped) -> Race:
        return replace(self, out={**self.out, dropped.name: dropped}, proved=self.proved - {dropped.name})

    def passed(self, name: str) -> Race:
        return replace(self, proved=self.proved | {name})

    @property
    def baseline(self) -> Entrant:
        return self.entrants[0]

    @property
    def in_order(self) -> list[Entrant]:
        """The baseline; those known to be fast or not known at all, before those that take long."""
        unknown = float("inf")
        rest = sorted(self.entrants[1:], key=lambda e: (e.slow, -(unknown if e.expected is None else e.expected)))
        return [self.baseline, *rest]

    def speed(self, name: str) -> float:
        """Rows per second, by the best of its probes; those of a draft count until it is probed in full."""
        return max(probe.middle for probe in self._counted(name))

    def span(self, name: str) -> tuple[float, float]:
        """Return the lowest and the highest speed that its best probe saw."""
        best = max(self._counted(name), key=lambda probe: probe.middle)
        return min(best.speeds), max(best.speeds)

    @property
    def leader(self) -> str | None:
        """The fastest so far; of those as fast, one that is proved, or whole."""
        running = [e for e in self.entrants if e.name in self.probes and e.name not in self.out]
        if not running:
            return None
        enough = (1 - WITHIN) * max(self.speed(e.name) for e in running)
        near = [e for e in running if self.speed(e.name) >= enough]
        return max(near, key=lambda e: (e.name in self.proved, not self._drafted(e), self.speed(e.name))).name

    @property
    def busy(self) -> bool:
        """Tell whether two probes of the baseline disagree, and no two after them agree."""
        last = [probe.middle for probe in self.probes.get(self.baseline.name, ())[-2:]]
        return len(last) == 2 and min(last) < (1 - _AGREE) * max(last)

    @property
    def contenders(self) -> list[str]:
        """Those that may be as fast as the leader, and the leader."""
        if (leader := self.leader) is None:
            return []
        least = self.span(leader)[0]
        return [name for name in self.probes if name not in self.out and self.span(name)[1] >= least]

    def next_step(self) -> Step | None:
        """Return what to do next; None where no candidate is left."""
        if (unprobed := next(self._to_probe(), None)) is not None:
            return Measure(unprobed.name, unprobed.drafted)
        leader = self.leader
        if leader is None:
            return None
        if not self.out_of_time and not self.proved and (again := self._doubtful()) is not None:
            return again
        if leader not in self.proved:
            return Prove(leader)
        if self._drafted(self._entrant(leader)):
            return Measure(leader, draft=False)
        return Choose(leader)

    def cannot_win(self, entrant: Entrant) -> bool:
        """Tell whether a candidate, even if it is faster here than it was elsewhere, stays below the leader."""
        leader = self.leader
        if leader is None or entrant.expected is None or self.baseline.name not in self.probes:
            return False
        return self._most(entrant) < self.span(leader)[0]

    def dropped(self, chosen: str) -> list[Dropped]:
        """Return the others, and why each was not chosen."""
        names = [e for e in self.entrants if e.name != chosen]
        return [self.out.get(e.name) or self._beaten(e, chosen) for e in names]

    def seconds_left(self, spent: float) -> float:
        """Return how long the rest may take, at the pace so far; `spent` are the seconds since the start."""
        done = sum(e.seconds for e in self.entrants if e.name in self.probes or e.name in self.out)
        pace = min(max(spent / (done + _SHARED_SECONDS), 0.5), 4.0) if done else 1.0
        return pace * (sum(e.seconds for e in self._to_probe()) + self._entrant(self.leader or "").seconds)

    def _to_probe(self) -> Iterator[Entrant]:
        for entrant in self.in_order:
            if entrant.name in self.probes or entrant.name in self.out:
                continue
            if not (self.leader and self.out_of_time) and not self.cannot_win(entrant):
                yield entrant

    def _doubtful(self) -> Measure | None:
        """Return whom to probe once more: two that cannot be told apart, or all that may win on a busy machine."""
        rounds, may_win = len(self.probes.get(self.baseline.name, ())), self.contenders
        if not rounds or self.baseline.name in self.out or may_win == [self.baseline.name]:
            return None
        if rounds == 1 or (self.busy and rounds < _MOST_ROUNDS):
            return Measure(self.baseline.name, draft=False)
        wanted = rounds if rounds > 2 else 2 if len(may_win) > 1 else 1
        for name in may_win:
            if len(self.probes[name]) < wanted:
                return Measure(name, self._entrant(name).drafted)
        return None

    def _counted(self, name: str) -> tuple[Probe, ...]:
        probes = self.probes[name]
        return tuple(probe for probe in probes if not probe.draft) or probes

    def _drafted(self, entrant: Entrant) -> bool:
        """Tell whether a candidate was probed as a draft only."""
        return all(probe.draft for probe in self.probes[entrant.name])

    def _entrant(self, name: str) -> Entrant:
        return next((e for e in self.entrants if e.name == name), self.baseline)

    def _most(self, entrant: Entrant) -> float:
        assert entrant.expected is not None
        return _AT_MOST * entrant.expected * self.span(self.baseline.name)[1]

    def _beaten(self, entrant: Entrant, chosen: str) -> Dropped:
        speed = f"{chosen} {self.speed(chosen):.1f}"
        if entrant.name in self.probes:
            ours = f"slower: {self.speed(entrant.name):.1f} rows/s a replica in its probe, {speed}"
            return Dropped(entrant.name, Why.SLOWER, ours)
        if self.cannot_win(entrant):
            known = f"on such machines at most {self._most(entrant):.1f} rows/s a replica, {speed} in its probe"
            return Dropped(entrant.name, Why.CANNOT_WIN, f"not tried: {known}")
        return Dropped(entrant.name, Why.OUT_OF_TIME, "not tried: selection.time_budget was spent")


def run(
    race: Race,
    probe: Callable[[Measure], Probe | Dropped],
    prove: Callable[[str], Dropped | None],
    told: Callable[[Race, Step], Race],
) -> Iterator[tuple[str, Race]]:
    """Do what the race asks for; yield who is chosen, then, as often as one more is asked for, the next in line.

    Args:
        probe, prove: do it; what they answer a `Dropped` for is out.
        told: is told of each step before it is taken, and may end the time.
    """
    while (step := race.next_step()) is not None:
        race = told(race, step)
        if (step := race.next_step()) is None:
            return
        if isinstance(step, Choose):
            yield step.name, race
            race = race.without(Dropped(step.name, Why.UNPROVABLE, "it was chosen before"))
        elif isinstance(step, Measure):
            found = probe(step)
            race = race.without(found) if isinstance(found, Dropped) else race.measured(step.name, found)
        else:
            fell = prove(step.name)
            race = race.without(fell) if fell else race.passed(step.name)
