"""The commit protocol and the lease under histories of faults: no row lost, none doubled, `_SUCCESS` over all or none.

hypothesis decides who takes the next step: runs on two machines, replicas whose driver is gone, the clock, and what
fails: requests that are refused, or done without an answer, processes that die or stop for long, parts that somebody
removes. The classes are the ones that jobs run on; the store is `world.py`. `make fuzz-protocol` runs thousands.
"""

from __future__ import annotations

import hashlib
import io
import os
from functools import partial
from typing import ClassVar

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from optinfer.data import inventory
from optinfer.data.account import Accounts
from optinfer.data.fragments import Plan
from optinfer.data.lock import RunLock
from optinfer.data.output import Output
from optinfer.data.output_listing import Differences
from tests.faults.protocol.runs import BAD, FRAGMENTS, ROWS, Protocol, job, straggle, work
from tests.faults.protocol.world import Histories, Run, World

HISTORIES = int(os.environ.get("OPTINFER_HISTORIES", "200"))
FAULTS = ("refused", "no answer", "asked twice", "dies", "dies after")
MOST_FOR_A_MUTANT = 400  # each is found within some 20
MOST_RUNS, MOST_LOST, MOST_FAILED = 5, 2, 3
# Of some hundred that an undisturbed run takes.
NEAR, FAR = st.integers(1, 8), st.integers(0, 150)
WHO = st.integers(0, MOST_RUNS - 1)
JOB = job()
PARTS = [JOB.plan.part_name(index) for index in range(FRAGMENTS)]
SCORED = [i for i in range(FRAGMENTS * ROWS) if i != BAD]


class HistoryMachine(RuleBasedStateMachine):
    """One history; mutants have another protocol."""

    protocol: ClassVar[Protocol] = Protocol()

    @initialize(steps=FAR, second=st.sampled_from("aabbb"), further=FAR)
    def begin(self, steps: int, second: str, further: int) -> None:
        self.world = Histories.world = World(self.protocol.conditional)
        self.lost = self.failed = 0
        for machine, far in (("a", steps), (second, further)):
            self.start(machine)
            self.go_on(len(self.runs) - 1, far)

    @precondition(lambda self: len(self.world.runs) < MOST_RUNS)
    @rule(machine=st.sampled_from("ab"))
    def start(self, machine: str) -> None:
        pid = len(self.world.runs)
        Run(self.world, f"run-{pid}", partial(work, JOB, self.protocol, machine, pid))

    @precondition(lambda self: len(self.world.runs) < MOST_RUNS and "out/_optinfer/variant.json" in self.world.objects)
    @rule(index=st.integers(0, FRAGMENTS - 1))
    def straggle(self, index: int) -> None:
        Run(self.world, f"run-{len(self.world.runs)}", partial(straggle, JOB, index))

    @rule(who=WHO, steps=FAR)
    def go_on(self, who: int, steps: int) -> None:
        run = self._run(who)
        while steps and not run.end:
            steps -= 1
            run.step()
            self.nothing_is_wrong()

    @rule(who=WHO, steps=NEAR)
    def go_on_a_little(self, who: int, steps: int) -> None:
        self.go_on(who, steps)

    @precondition(lambda self: self.failed < MOST_FAILED)
    @rule(who=WHO, steps=NEAR, fault=st.sampled_from(FAULTS))
    def fail(self, who: int, steps: int, fault: str) -> None:
        self.go_on(who, steps)
        self._run(who).step(fault)
        self.failed += 1

    @rule(seconds=st.sampled_from([5.0, 70.0, 1e6]))
    def stand_still(self, seconds: float) -> None:
        """Let time pass in which nobody runs."""
        self.world.now += seconds

    @rule(seconds=st.sampled_from([-1e6, 1e6]))
    def step_the_clock(self, seconds: float) -> None:
        self.world.wall += seconds

    @precondition(lambda self: self.lost < MOST_LOST and all(r.end or r.phase in ("", "scoring") for r in self.runs))
    @rule(index=st.integers(0, FRAGMENTS - 1))
    def lose(self, index: int) -> None:
        """Remove a part before a run looks whether all are there: what goes later nobody can see."""
        if "out/_SUCCESS" not in self.world.objects and self.world.objects.pop(f"out/{PARTS[index]}", None):
            self.lost += 1

    @property
    def runs(self) -> list[Run]:
        return list(self.world.runs.values())

    def _run(self, who: int) -> Run:
        return self.runs[who % len(self.runs)]

    @invariant()
    def nothing_is_wrong(self) -> None:
        if not hasattr(self, "world"):
            return
        assert not self.world.wrong, self.world.wrong
        broken = [run.error for run in self.runs if run.error]
        assert not broken, broken
        if self.world.changed and "out/_SUCCESS" in self.world.objects:
            self.require_whole()
        self.world.changed = False

    def require_whole(self) -> None:
        there = self.world.objects
        parts = sorted(name for name in there if name.startswith("out/part-"))
        assert parts == [f"out/{name}" for name in PARTS]
        tables = [pq.read_table(io.BytesIO(there[name])) for name in parts]
        assert [i for table in tables for i in table["id"].to_pylist()] == SCORED
        aside = [data for name, data in there.items() if name.startswith("out/_quarantine/")]
        assert [pq.read_table(io.BytesIO(data))["_row"].to_pylist() for data in aside] == [[BAD]]
        told = pq.read_table(io.BytesIO(there[f"out/{inventory.INVENTORY}"]))
        assert told["sha256"].to_pylist() == [hashlib.sha256(there[name]).hexdigest() for name in parts]

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        for run in self.runs:
            while not run.end:
                run.step()
                self.nothing_is_wrong()
        for run_again in range(2):
            last = Run(self.world, f"last-{run_again}", partial(work, JOB, self.protocol, "c", 100 + run_again))
            while not last.end:
                last.step()
        self.nothing_is_wrong()
        assert "out/_SUCCESS" in self.world.objects, [(run.name, run.end) for run in self.runs]
        assert self.runs[-1].end == "nothing to do", [(run.name, run.end) for run in self.runs]


def test_no_history_loses_or_doubles_a_row() -> None:
    search(HistoryMachine, HISTORIES, derandomize="OPTINFER_HISTORIES" not in os.environ)


def search(machine: type[HistoryMachine], histories: int, derandomize: bool = True) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=histories,
            stateful_step_count=25,
            deadline=None,
            derandomize=derandomize,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        ),
    )


class Unasked(RunLock):
    """A lock whose holder never compares its token with the one that is there."""

    def require(self) -> None:
        pass


class Unlisted(Output):
    """An output that ends on what was counted, without a look at what is there."""

    def compare(self, accounts: Accounts, plan: Plan) -> Differences:
        found = super().compare(accounts, plan)
        return Differences(found.lost[:0], (), (), ())


MUTANTS = {
    "no conditional put": Protocol(conditional=False),
    "no comparison of tokens": Protocol(lock=Unasked),
    "no listing": Protocol(output=Unlisted),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_protocol_that_lacks_a_part_is_found(mutant: str) -> None:
    class Mutant(HistoryMachine):
        protocol = MUTANTS[mutant]

    with pytest.raises(AssertionError):
        search(Mutant, MOST_FOR_A_MUTANT)
