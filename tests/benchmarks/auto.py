"""How a cold `variant: auto` decides: seconds and CPU seconds of each step, its longest silence, what was dropped.

The home is empty, the table and the model are the demo's. With --exhaustive every candidate is then proved in the same
home, as `optinfer optimize` does, those that pass are probed once more, one after another, in full, and the choice is
held against the fastest of them. CPU seconds are those of this process and of all that it started: they are comparable
where other programs share the machine, seconds are not.

The last stdout line is one JSON object.

Usage: python auto.py [--source TABLE] [--sample-rows N] [--exhaustive]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def _cpu_seconds() -> float:
    """Return what this process and the children that have ended took."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


@dataclass
class Clock:
    """What was said, and when: (seconds, CPU seconds, line); CPU seconds of a child count when it has ended."""

    began: float = field(default_factory=monotonic)
    lines: list[tuple[float, float, str]] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append((monotonic() - self.began, _cpu_seconds(), line))
        print(f"{self.lines[-1][0]:7.1f} s {self.lines[-1][1]:7.1f} CPU s  {line}", file=sys.stderr, flush=True)

    @property
    def longest_silence(self) -> tuple[float, str]:
        """Return the seconds, and the line before them."""
        times = [seconds for seconds, _, _ in self.lines]
        return max((after - at, line) for at, after, (_, _, line) in zip(times, times[1:], self.lines, strict=False))


@contextmanager
def empty_home() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="auto-") as folder:
        os.environ["OPTINFER_HOME"] = folder
        yield folder


def measured(source: str, sample_rows: int, exhaustive: bool) -> dict[str, Any]:
    """Decide once, cold; return the choice and what it took."""
    from optinfer.commands.resolved import resolve
    from optinfer.job_file import load_job
    from optinfer.optimization.selection import Prepared, candidates, prove_all

    changes = [f"source.path={source}", f"gate.sample_rows={sample_rows}", "variant=auto"]
    os.chdir(REPOSITORY)
    clock = Clock()
    clock.say("begins")
    bench = resolve(load_job("jobs/embed_packages.yaml", changes)).bench(clock.say)
    chosen = next(candidates(bench))
    clock.say(f"decided: {chosen.variant.name}")
    seconds, cpu, _ = clock.lines[-1]
    silence, after = clock.longest_silence
    found: dict[str, Any] = {
        "chosen": chosen.variant.name,
        "rows_per_second": chosen.certificate.rows_per_second,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "longest_silence_seconds": round(silence, 1),
        "silent_after": after,
        "not_chosen": dict(chosen.not_chosen),
    }
    if exhaustive:
        names = [name for name, variant in bench.catalog.items() if not variant.exploratory]
        proved = [one for one in prove_all(bench, names) if isinstance(one, Prepared) and one.gate.passed]
        found["exhaustive_cpu_seconds"] = round(_cpu_seconds() - cpu, 1)
        probed = {one.variant.name: max(median(bench.probe(one.variant)) for _ in range(2)) for one in proved}
        found["probed_rows_per_cpu_second"] = dict(sorted(probed.items(), key=lambda item: -item[1]))
        found["share_of_best"] = probed[chosen.variant.name] / max(probed.values())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--source", default="jobs/data/packages.parquet")
    parser.add_argument("--sample-rows", type=int, default=512)
    parser.add_argument("--exhaustive", action="store_true", help="prove every candidate then, and compare")
    options = parser.parse_args()
    with empty_home():
        print(json.dumps(measured(options.source, options.sample_rows, options.exhaustive)))


if __name__ == "__main__":
    main()
