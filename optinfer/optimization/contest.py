"""The race of `variant: auto` on a bench: who enters, what is known of them, and what is remembered of its end.

The race itself (race.py) says what comes next. What a calm race measured is kept with what it depends on, so the same
job races once; what was measured while the machine was busy is not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

from optinfer.backends import BACKENDS
from optinfer.config import AUTO
from optinfer.errors import scrubbed
from optinfer.optimization.expected import expected, remember
from optinfer.optimization.prepared import Prepared, Skipped
from optinfer.optimization.race import Dropped, Entrant, Measure, Probe, Prove, Race, Step, Why, run
from optinfer.optimization.variants import BASELINES, Variant
from optinfer.optimization.workbench import Workbench
from optinfer.system import home

# What a process, a calibration or a compiler takes, about; the pace that is seen corrects them.
_PROBE_SECONDS, _CALIBRATION_SECONDS, _COMPILER_SECONDS = 6.0, 12.0, 60.0

Tried = Callable[[Variant], Prepared | Skipped]


class Contest:
    """Iterates over those that may score, best first; each is proved when it is asked for.

    Args:
        variants: those that may enter.
        tried: builds in full, proves and judges one.

    Attributes:
        fallen: who cannot be chosen, and why, as far as the race went.
    """

    def __init__(
        self, bench: Workbench, variants: Sequence[Variant], tried: Tried, clock: Callable[[], float] = monotonic
    ) -> None:
        self._bench, self._tried, self._clock = bench, tried, clock
        self.fallen = [dropped for variant in variants if (dropped := barred(bench, variant))]
        out = {dropped.name for dropped in self.fallen}
        baseline = BASELINES[bench.model.format]
        fit = [variant for variant in variants if variant.name not in out]
        self._variants = {variant.name: variant for variant in sorted(fit, key=lambda v: v.name != baseline)}
        # Where the baseline cannot run on the job's devices nothing is known of the others either.
        self._known = baseline in self._variants
        self._proofs: dict[str, Prepared] = {}
        self._began = clock()
        self._path = home.home() / "races" / f"{bench.race_key(fit)}.json"

    def __iter__(self) -> Iterator[Prepared]:
        if not self._variants:
            return
        for name, race in run(self._race(), self._probe, self._prove, self._told):
            self._remember(race)
            others = [*race.dropped(name), *(one for one in self.fallen if one.name not in self._variants)]
            yield replace(
                self._proofs[name],
                not_chosen=tuple((one.name, one.reason) for one in others),
                why_not=tuple((one.name, one.why) for one in others),
            )

    @property
    def remembered(self) -> str | None:
        """The one that led when the same race was run before."""
        return self._race().leader if self._variants else None

    def _race(self) -> Race:
        return Race(tuple(self._entrants()), probes=home.read_json(self._path, _probes) or {})

    def _entrants(self) -> Iterator[Entrant]:
        family = self._bench.config.model.family
        known = {v.device: expected(family, v.device) for v in self._variants.values()} if self._known else {}
        for name, variant in self._variants.items():
            compiles = BACKENDS.get(variant.backend).compiles
            yield Entrant(
                name,
                expected=known.get(variant.device, {}).get(name),
                slow=compiles or variant.calibrates,
                drafted=variant.draft is not None,
                seconds=_PROBE_SECONDS + _CALIBRATION_SECONDS * variant.calibrates + _COMPILER_SECONDS * compiles,
            )

    def _probe(self, step: Measure) -> Probe | Dropped:
        variant = self._variants[step.name]
        try:
            return Probe(self._bench.probe((step.draft and variant.draft) or variant), step.draft)
        except Exception as error:
            # One candidate that cannot be built must not keep the others from being chosen.
            return self._fell(step.name, Why.UNPROVABLE, f"could not be probed: {type(error).__name__}: {error}")

    def _prove(self, name: str) -> Dropped | None:
        result = self._tried(self._variants[name])
        if isinstance(result, Skipped):
            return self._fell(name, Why.UNPROVABLE, result.reason)
        if not result.gate.passed:
            return self._fell(name, Why.BELOW_GATE, result.gate.reason)
        self._proofs[name] = result
        return None

    def _fell(self, name: str, why: Why, reason: str) -> Dropped:
        self.fallen.append(Dropped(name, why, scrubbed(reason)[:500]))
        self._bench.say(f"not {name}: {self.fallen[-1].reason}")
        return self.fallen[-1]

    def _told(self, race: Race, step: Step) -> Race:
        spent = self._clock() - self._began
        race = replace(race, out_of_time=spent > self._bench.config.selection.time_budget)
        leader = f"{race.leader} leads with {race.speed(race.leader):.1f} rows/s a replica" if race.leader else ""
        left = f"about {race.seconds_left(spent):.0f} s left"
        settled = len({*race.probes, *race.out}) + sum(
            race.cannot_win(e) for e in race.entrants if e.name not in race.probes
        )
        at = f"{settled} of {len(race.entrants)} candidates settled"
        if isinstance(step, Measure):
            again = " once more" if step.name in race.probes else ""
            self._bench.say("; ".join(filter(None, [f"probing {step.name}{again}", at, leader, left])))
        elif isinstance(step, Prove):
            self._bench.say("; ".join(filter(None, [f"proving {step.name}", at, leader, left])))
        return race

    def _remember(self, race: Race) -> None:
        """Keep what was measured; on a busy machine that is no truth about the variants."""
        if race.busy:
            return self._bench.say(
                "the machine is busy: probes of the baseline differ; what was measured of the candidates is not kept"
            )
        home.put(self._path, json.dumps({"probes": race.probes}, default=vars).encode())
        if not self._known:
            return
        base = race.speed(race.baseline.name)
        for device in {variant.device for variant in self._variants.values()}:
            ratios = {n: race.speed(n) / base for n in race.probes if self._variants[n].device == device}
            remember(self._bench.config.model.family, device, ratios)


def barred(bench: Workbench, variant: Variant) -> Dropped | None:
    """Return why a variant is no candidate for the job here, if it is none."""
    wished = bench.config.placement.device
    if reason := variant.unavailable() or variant.unfit(bench.model.format):
        return Dropped(variant.name, Why.UNAVAILABLE, f"not available: {reason}")
    if wished not in (AUTO, variant.device):
        reason = f"runs on {variant.device}, placement.device is {wished}"
        return Dropped(variant.name, Why.OTHER_DEVICE, reason)
    return None


def _probes(raw: Any) -> Mapping[str, tuple[Probe, ...]]:
    if not all(one["speeds"] for probes in raw["probes"].values() for one in probes):
        raise ValueError("a probe without a speed")
    return {
        str(name): tuple(Probe(tuple(map(float, one["speeds"])), bool(one["draft"])) for one in probes)
        for name, probes in raw["probes"].items()
    }
