"""The race on a bench: what is built, proved and remembered of it, with speeds as the test says."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from optinfer.commands.resolved import resolve
from optinfer.errors import GateError, LoadError
from optinfer.inference.replica import ReplicaSettings
from optinfer.optimization.prepared import Prepared
from optinfer.optimization.proving import Proving
from optinfer.optimization.race import Why
from optinfer.optimization.selection import candidates, known
from optinfer.optimization.trial import HERE
from optinfer.optimization.variants import VARIANTS
from tests.conftest import MakeJob, WriteTable

FAKE = {"backend": "fake"}
CALM = {"torch-fp32": [10.0], "quick": [40.0], "other": [20.0]}


@dataclass
class Speeds:
    """Probes that say what they are told to, one after another, the last one again and again."""

    of: dict[str, list[float]]
    probed: list[str] = field(default_factory=list)

    def __call__(self, settings: ReplicaSettings, batches: Sequence[pa.Table], time_limit: float) -> tuple[float, ...]:
        said = self.of[settings.variant]
        speed = said[min(self.probed.count(settings.variant), len(said) - 1)]
        self.probed.append(settings.variant)
        if speed < 0:
            raise LoadError("it has no kernel for this machine")
        return (speed, speed, speed)


Race = Callable[..., tuple[Iterator[Prepared], Speeds, list[str]]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home that keeps the baseline's answers, which cost more than all the rest of these tests."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def race(
    make_job: MakeJob, write_table: WriteTable, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Race:
    """Return a function from speeds by variant to the candidates of `variant: auto`, the probes and what was said."""
    for name in [n for n in VARIANTS if n != "torch-fp32"]:
        monkeypatch.delitem(VARIANTS, name)
    monkeypatch.setenv("OPTINFER_HOME", str(home))
    for measured in ("races", "certificates"):
        shutil.rmtree(home / measured, ignore_errors=True)
    table = write_table(tmp_path / "t.parquet", rows=48)

    def run(
        speeds: dict[str, list[float]], until: str = "", **changes: Any
    ) -> tuple[Iterator[Prepared], Speeds, list[str]]:
        own = {name: FAKE for name in speeds if name != "torch-fp32"}
        settings = {"variant": "auto", "variants": own, "gate": {"min": -1.0, "sample_rows": 16}, **changes}
        job, said, probes = resolve(make_job(table, tmp_path / "out", **settings)), list[str](), Speeds(speeds)
        proving = Proving(job.subject, job.plan.sample_from, lambda *_: None, replace(HERE, probe=probes))

        def say(line: str) -> None:
            said.append(line)
            if until and line.startswith(until):
                raise KeyboardInterrupt

        return candidates(proving.bench(say)), probes, said

    return run


def certified(said: list[str]) -> list[str]:
    return list(dict.fromkeys(line.split()[1] for line in said if line.startswith("certifying")))


def test_the_fastest_probe_is_proved_and_nobody_else(race: Race) -> None:
    found, _, said = race(CALM)
    chosen = next(found)
    assert chosen.variant.name == "quick"
    assert certified(said) == ["quick"]
    assert dict(chosen.why_not) == {"torch-fp32": Why.SLOWER, "other": Why.SLOWER}
    assert dict(chosen.not_chosen)["other"] == "slower: 20.0 rows/s a replica in its probe, quick 40.0"
    assert next(found).variant.name == "other", "the next in line"


def test_progress_names_how_many_the_leader_and_the_seconds_left(race: Race) -> None:
    found, _, said = race(CALM)
    next(found)
    lines = [line for line in said if line.startswith(("probing", "proving"))]
    assert lines[0].startswith("probing torch-fp32; 0 of 3 candidates settled; about ")
    assert "1 of 3 candidates settled; torch-fp32 leads with 10.0 rows/s a replica; about " in lines[1]
    assert lines[-1].startswith(
        "proving quick; 3 of 3 candidates settled; quick leads with 40.0 rows/s a replica; about"
    )
    assert all(line.endswith(" s left") for line in lines)


def test_a_calm_race_is_run_once(race: Race) -> None:
    first, _, _ = race(CALM)
    assert next(first).variant.name == "quick"
    second, probes, said = race({**CALM, "other": [400.0]})
    assert next(second).variant.name == "quick", "as was measured before"
    assert probes.probed == []
    assert not [line for line in said if line.startswith(("probing", "certifying", "building"))]


@pytest.mark.parametrize("damage", ["", "[1]", '{"probes": {"quick": [{"speeds": [], "draft": false}]}}'])
def test_a_damaged_memory_of_a_race_is_none(race: Race, home: Path, damage: str) -> None:
    next(race(CALM)[0])
    for file in (home / "races").iterdir():
        file.write_text(damage)
    found, probes, _ = race(CALM)
    assert next(found).variant.name == "quick"
    assert probes.probed


def test_a_race_of_others_is_another_race(race: Race) -> None:
    next(race(CALM)[0])
    found, probes, _ = race({**CALM, "third": [80.0]})
    assert next(found).variant.name == "third"
    assert set(probes.probed) == {"torch-fp32", "third"}, "what was measured here of the others says that they lose"


def test_what_a_busy_machine_measured_is_used_once_and_not_remembered(race: Race) -> None:
    busy = {**CALM, "torch-fp32": [10.0, 5.0, 9.0]}
    found, probes, said = race(busy)
    assert next(found).variant.name == "quick"
    assert probes.probed.count("torch-fp32") == 3
    assert probes.probed.count("quick") == 3, "whoever may win is probed again"
    assert any("the machine is busy" in line for line in said)
    again, probes, _ = race(CALM)
    next(again)
    assert set(probes.probed) == set(CALM)


def test_one_that_cannot_be_probed_keeps_no_other_from_winning(race: Race) -> None:
    found, _, said = race({**CALM, "quick": [-1.0]})
    chosen = next(found)
    assert chosen.variant.name == "other"
    assert dict(chosen.why_not)["quick"] is Why.UNPROVABLE
    assert "it has no kernel for this machine" in dict(chosen.not_chosen)["quick"]
    assert any(line.startswith("not quick: could not be probed") for line in said)


def test_the_next_in_line_is_proved_where_the_leader_falls(race: Race) -> None:
    found, _, said = race(CALM, gate={"min": 0.999, "sample_rows": 16})
    chosen = next(found)
    assert chosen.variant.name == "torch-fp32", "the fakes' answers are no model's"
    proved = [line.partition(";")[0] for line in said if line.startswith("proving")]
    assert proved == ["proving quick", "proving other", "proving torch-fp32"]
    assert dict(chosen.why_not) == {"quick": Why.BELOW_GATE, "other": Why.BELOW_GATE}


def test_where_none_passes_each_is_named_with_its_reason(race: Race) -> None:
    found, _, _ = race({"torch-fp32": [-1.0], "quick": [40.0]}, gate={"min": 0.999, "sample_rows": 16})
    with pytest.raises(GateError, match=r"(?s)no variant passes.*torch-fp32: could not be probed.*quick: cosine"):
        next(found)


def test_an_interrupt_keeps_what_was_proved(race: Race) -> None:
    gate = {"min": 0.999, "sample_rows": 16}
    found, _, said = race(CALM, until="proving torch-fp32", gate=gate)
    with pytest.raises(KeyboardInterrupt):
        next(found)
    assert certified(said) == ["quick"]
    again, _, said = race(CALM, gate=gate)
    assert next(again).variant.name == "torch-fp32"
    assert certified(said) == ["torch-fp32"]


def test_plan_knows_the_winner_before_the_job_runs(race: Race, make_job: MakeJob, tmp_path: Path) -> None:
    next(race(CALM)[0])
    own = {"quick": FAKE, "other": FAKE}
    job = make_job(
        tmp_path / "t.parquet", tmp_path / "out", variant="auto", variants=own, gate={"min": -1.0, "sample_rows": 16}
    )
    found = known(resolve(job).bench())
    assert found is not None
    assert found.variant.name == "quick"
