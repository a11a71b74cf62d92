"""The race decides on plain numbers: the choice is as fast as the best that passes, and little is built that cannot win."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optinfer.optimization.race import WITHIN, Choose, Dropped, Entrant, Measure, Probe, Prove, Race, Step, Why, run

SPEEDS = st.floats(1.0, 1000.0)


@dataclass
class Track:
    """Runs a race where each candidate is as fast as it is said to be.

    Attributes:
        slowed: how much of its speed a probe of the baseline, the second one and so on, has.
        broken: those that cannot be probed; `unfaithful`: those that do not pass the gate.
        took: the steps, in order.
    """

    speeds: dict[str, float]
    slowed: tuple[float, ...] = ()
    broken: frozenset[str] = frozenset()
    unfaithful: frozenset[str] = frozenset()
    out_of_time_after: int = 1000
    took: list[Step] = field(default_factory=list)

    def run(self, *entrants: Entrant) -> list[tuple[str, Race]]:
        return list(run(Race(entrants), self.probe, self.prove, self.told))

    def probe(self, step: Measure) -> Probe | Dropped:
        if step.name in self.broken:
            return Dropped(step.name, Why.UNPROVABLE, "broken")
        times = sum(isinstance(s, Measure) and s.name == step.name for s in self.took) - 1
        share = self.slowed[times] if step.name == "base" and times < len(self.slowed) else 1.0
        speed = self.speeds[step.name] * share
        return Probe((0.99 * speed, speed, 1.01 * speed), step.draft)

    def prove(self, name: str) -> Dropped | None:
        return Dropped(name, Why.BELOW_GATE, "below") if name in self.unfaithful else None

    def told(self, race: Race, step: Step) -> Race:
        self.took.append(step)
        assert len(self.took) < 200, "a race has an end"
        return replace(race, out_of_time=len(self.took) > self.out_of_time_after)

    @property
    def probed(self) -> list[str]:
        return list(dict.fromkeys(step.name for step in self.took if isinstance(step, Measure)))

    @property
    def proved(self) -> list[str]:
        return [step.name for step in self.took if isinstance(step, Prove)]


@st.composite
def fields(draw: st.DrawFn) -> tuple[Track, list[Entrant]]:
    """Draw a baseline and up to seven others, what was expected of them not far from what they are."""
    base, names = draw(SPEEDS), [f"v{i}" for i in range(draw(st.integers(0, 7)))]
    speeds, entrants = {"base": base}, [Entrant("base")]
    for name in names:
        speeds[name] = draw(SPEEDS)
        truth = speeds[name] / base
        expected = draw(st.one_of(st.none(), st.floats(0.7 * truth, 3 * truth)))
        entrants.append(Entrant(name, expected, slow=draw(st.booleans()), drafted=draw(st.booleans())))
    some = st.frozensets(st.sampled_from(names)) if names else st.just(frozenset[str]())
    return Track(speeds, broken=draw(some), unfaithful=draw(some)), entrants


@given(fields())
def test_the_choice_is_within_three_percent_of_the_fastest_that_passes(drawn: tuple[Track, list[Entrant]]) -> None:
    track, entrants = drawn
    chosen = next(run(Race(tuple(entrants)), track.probe, track.prove, track.told))[0]
    passing = {name: speed for name, speed in track.speeds.items() if name not in track.broken | track.unfaithful}
    assert chosen in passing
    assert passing[chosen] >= (1 - WITHIN) * max(passing.values())


@given(fields())
def test_those_next_in_line_follow_and_none_twice_and_none_that_fails(drawn: tuple[Track, list[Entrant]]) -> None:
    track, entrants = drawn
    chosen = [name for name, _ in track.run(*entrants)]
    assert len(chosen) == len(set(chosen))
    assert not set(chosen) & (track.broken | track.unfaithful)
    assert set(chosen) == set(track.speeds) - track.broken - track.unfaithful, "whoever waits long enough gets each"


@given(fields())
def test_everyone_that_was_not_chosen_has_a_reason(drawn: tuple[Track, list[Entrant]]) -> None:
    track, entrants = drawn
    chosen, race = track.run(*entrants)[0]
    why = {dropped.name: dropped for dropped in race.dropped(chosen)}
    assert set(why) == set(track.speeds) - {chosen}
    for name, dropped in why.items():
        if name in track.broken and name in track.probed:
            assert dropped.why in (Why.UNPROVABLE, Why.CANNOT_WIN)
        if dropped.why is Why.SLOWER:
            assert track.speeds[name] <= track.speeds[chosen] / (1 - WITHIN)


def test_who_cannot_win_is_neither_built_nor_probed() -> None:
    track = Track({"base": 10, "fast": 40, "hopeless": 12, "compiled": 11})
    ((chosen, race), *_) = track.run(
        Entrant("base"),
        Entrant("hopeless", expected=1.2),
        Entrant("fast", expected=3.0),
        Entrant("compiled", 1.2, slow=True),
    )
    assert chosen == "fast"
    first = track.took[: track.took.index(Choose("fast"))]
    assert {step.name for step in first} == {"base", "fast"}
    assert {dropped.name: dropped.why for dropped in race.dropped("fast")} == {
        "base": Why.SLOWER,
        "hopeless": Why.CANNOT_WIN,
        "compiled": Why.CANNOT_WIN,
    }


def test_who_was_out_because_of_the_fallen_is_in_again() -> None:
    track = Track({"base": 10, "fast": 40, "next": 14}, unfaithful=frozenset({"fast"}))
    ((chosen, _), *_) = track.run(Entrant("base"), Entrant("fast", 4.0), Entrant("next", 1.4))
    assert chosen == "next"
    assert track.proved[:2] == ["fast", "next"]


def test_only_the_leader_is_proved() -> None:
    track = Track({"base": 10, "a": 20, "b": 30, "c": 25})
    entrants = [Entrant("base"), Entrant("a"), Entrant("b"), Entrant("c")]
    chosen, _ = next(run(Race(tuple(entrants)), track.probe, track.prove, track.told))
    assert (chosen, track.proved) == ("b", ["b"])


def test_what_takes_long_to_build_comes_last() -> None:
    track = Track({"base": 10, "slow": 30, "quick": 20})
    track.run(Entrant("base"), Entrant("slow", 3.0, slow=True), Entrant("quick", 2.0))
    assert track.probed == ["base", "quick", "slow"]


def test_a_draft_that_leads_is_proved_whole_and_probed_whole() -> None:
    track = Track({"base": 10, "int8": 30})
    chosen, race = track.run(Entrant("base"), Entrant("int8", drafted=True))[0]
    assert chosen == "int8"
    at = track.took.index(Choose("int8"))
    assert track.took[at - 2 : at] == [Prove("int8"), Measure("int8", draft=False)]
    assert [probe.draft for probe in race.probes["int8"]][-1] is False


def test_of_two_as_fast_the_one_that_is_whole_is_taken() -> None:
    track = Track({"base": 10, "draft": 30.5, "whole": 30})
    chosen, _ = track.run(Entrant("base"), Entrant("draft", drafted=True), Entrant("whole"))[0]
    assert chosen == "whole"
    assert track.proved[0] == "whole"


def test_a_busy_machine_is_noticed_and_whoever_may_win_is_probed_again() -> None:
    track = Track({"base": 10, "a": 30, "b": 29.9, "c": 15}, slowed=(0.7, 1.0, 1.0))
    _, race = track.run(Entrant("base"), Entrant("a"), Entrant("b"), Entrant("c"))[0]
    assert not race.busy, "the last two agree"
    assert {name: len(probes) for name, probes in race.probes.items()} == {"base": 3, "a": 3, "b": 3, "c": 1}


def test_of_several_probes_the_best_counts_as_noise_only_slows() -> None:
    race = Race((Entrant("base"), Entrant("a"), Entrant("b"))).measured("base", Probe((10.0,)))
    race = race.measured("a", Probe((30.0,))).measured("a", Probe((15.0,))).measured("b", Probe((20.0,)))
    assert race.leader == "a"
    assert race.speed("a") == 30.0


def test_a_machine_that_stays_busy_is_said_to_be() -> None:
    track = Track({"base": 10, "a": 30}, slowed=(0.5, 1.0, 0.6, 1.0))
    _, race = track.run(Entrant("base"), Entrant("a"))[0]
    assert race.busy


def test_without_time_the_leader_is_proved_and_nothing_new_begun() -> None:
    track = Track({"base": 10, "a": 30, "b": 40}, out_of_time_after=2)
    chosen, race = track.run(Entrant("base"), Entrant("a", 3.0), Entrant("b", 2.0))[0]
    assert chosen == "a"
    assert {dropped.name: dropped.why for dropped in race.dropped("a")}["b"] is Why.OUT_OF_TIME


def test_a_baseline_that_cannot_be_probed_again_ends_no_race() -> None:
    race = Race((Entrant("base"), Entrant("a"))).measured("base", Probe((10.0,))).measured("a", Probe((20.0,)))
    assert race.next_step() == Measure("base", draft=False)
    assert race.without(Dropped("base", Why.UNPROVABLE, "gone")).next_step() == Prove("a")


def test_nobody_left_is_no_choice() -> None:
    track = Track({"base": 10.0, "a": 20.0}, unfaithful=frozenset({"base", "a"}))
    assert track.run(Entrant("base"), Entrant("a")) == []


def test_the_seconds_left_follow_the_pace() -> None:
    race = Race((Entrant("base", seconds=5), Entrant("a", seconds=10), Entrant("b", seconds=10)))
    race = race.measured("base", Probe((10.0,))).measured("a", Probe((20.0,)))
    assert race.seconds_left(35.0) == pytest.approx(10 + 10), "one to probe, and the leader to prove"
    assert race.seconds_left(70.0) == pytest.approx(2 * (10 + 10))
