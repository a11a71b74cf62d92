"""A small job over a store that fails and under kills at its storage operations: the rows of a quiet run, each once.

Every operation is killed at by `make soak-storage`; here a few are, by a seed.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import yaml

from tests import refused_calls
from tests.conftest import job_settings
from tests.data import flaky_store
from tests.data.flaky_store import FAULTS, FlakyStore, Headers
from tests.faults.storage_job import Commands, Ended

pytestmark = pytest.mark.slow

ROWS, KILLS = 40, 1
ALL = bool(os.environ.get("OPTINFER_EVERY_OPERATION"))
SEEDS = int(os.environ.get("OPTINFER_SEEDS", "2"))
# Of requests: enough that each job meets a dozen, of all kinds.
SHARE = 0.15
QUARANTINED = {i for i in range(ROWS) if i % 11 == 5}


@dataclass
class Bench:
    """A job on a store, its commands, and what a quiet run of it leaves."""

    commands: Commands
    job: Path
    sink: str
    home: Path
    store: FlakyStore | None = None
    expected: pa.Table | None = None
    operations: int = 0

    def start(self, **options: Any) -> Any:
        environment = {"OPTINFER_HOME": str(self.home), "AWS_MAX_ATTEMPTS": "1"}
        if self.store is not None:
            environment["AWS_ENDPOINT_URL"] = self.store.url
        return self.commands.started(self.job, **options, **environment)

    def run(self, **options: Any) -> Ended:
        return self.commands.ended(self.start(**options))

    def empty(self) -> None:
        fs, path = fsspec.core.url_to_fs(self.sink, use_listings_cache=False)
        if fs.exists(path):
            fs.rm(path, recursive=True)

    def require_whole(self, ended: Ended) -> None:
        """Hold an output that a command has finished against what a quiet run leaves."""
        assert ended.code == 0, ended.said
        assert "Traceback" not in ended.said
        record = json.loads(next(line for line in ended.said.splitlines() if line.startswith("{")))
        assert (record["rows_in"], record["rows_out"]) == (ROWS, ROWS - len(QUARANTINED))
        table, aside = self.table(), self.table("_quarantine")
        assert table["id"].to_pylist() == [f"r{i}" for i in range(ROWS) if i not in QUARANTINED]
        assert sorted(aside["_row"].to_pylist()) == sorted(QUARANTINED)
        assert self.expected is None or table.equals(self.expected)
        fs, path = fsspec.core.url_to_fs(self.sink, use_listings_cache=False)
        told = pq.read_table(f"{path}/_optinfer/parts.pq", filesystem=fs).to_pylist()
        for part in told:
            data = fs.cat_file(f"{path}/{part['part']}")
            assert (part["bytes"], part["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        left = [name.rpartition("/")[2] for name in fs.find(path)]
        assert sorted(name for name in left if name.startswith("part-") and name.count("-") == 1) == sorted(
            part["part"] for part in told
        )
        assert "_SUCCESS" in left
        assert "lock.json" not in left
        assert "ended.json" not in left

    def table(self, under: str = "") -> pa.Table:
        fs, path = fsspec.core.url_to_fs(self.sink, use_listings_cache=False)
        ending = ".pq" if under else ".parquet"
        files = sorted(name for name in fs.ls(f"{path}/{under}", detail=False) if name.endswith(ending))
        return pads.dataset(files, filesystem=fs, format="parquet").to_table()


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    return Commands(tmp_path_factory.mktemp("commands"))


MakeBench = Callable[[str, str], Bench]


@pytest.fixture(scope="module")
def make_bench(commands: Commands, tmp_path_factory: pytest.TempPathFactory, shallow: Path) -> MakeBench:
    """Return a function from where rows come from and go to, to a job of which all is proved already."""
    folder = tmp_path_factory.mktemp("bench")

    def make(source: str, sink: str) -> Bench:
        texts = [None if i in QUARANTINED else f"text {i}" for i in range(ROWS)]
        with fsspec.open(source, "wb") as file:
            pq.write_table(pa.table({"id": [f"r{i}" for i in range(ROWS)], "text": texts}), file)
        job = folder / f"{hashlib.sha256(sink.encode()).hexdigest()[:8]}.yaml"
        settings = job_settings(source, sink, model__path=str(shallow), sink__error_threshold=10)
        job.write_text(yaml.safe_dump(settings))
        return Bench(commands, job, sink, folder / "home")

    return make


def quiet(bench: Bench, **options: Any) -> None:
    """Run a job that nobody disturbs, and see what it does."""
    ended = bench.run(**options)
    bench.operations = len(ended.operations) if bench.store is None else len(bench.store.asked)
    bench.require_whole(ended)
    bench.expected = bench.table()
    bench.empty()


@pytest.fixture(scope="module")
def quiet_here(make_bench: MakeBench, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("here")
    bench = make_bench(str(folder / "table.parquet"), str(folder / "out"))
    quiet(bench, watched=bench.sink)
    return bench


@pytest.fixture
def here(quiet_here: Bench) -> Bench:
    quiet_here.empty()  # of what a test before this one left when it failed
    return quiet_here


@pytest.fixture
def on_s3(quiet_on_s3: Bench) -> Bench:
    quiet_on_s3.empty()
    return quiet_on_s3


@pytest.fixture(scope="module")
def quiet_on_s3(make_bench: MakeBench, s3_endpoint: str) -> Iterator[Bench]:
    fsspec.filesystem("s3").mkdir("storage-faults")
    with flaky_store.in_front_of(s3_endpoint) as store:
        bench = make_bench("s3://storage-faults/table.parquet", "s3://storage-faults/out")
        bench.store = store
        quiet(bench)
        yield bench


def moments(operations: int, seed: int) -> list[int]:
    every = range(operations)
    return list(every) if ALL else sorted(random.Random(seed).sample(every, KILLS))


def died(bench: Bench, at: int, ended: Ended) -> bool:
    """Tell whether a run died as it was to; it may have had less to do: pieces of its journal and beats take turns."""
    if ended.code == 0:
        bench.require_whole(ended)
        return False
    assert ended.code == -signal.SIGKILL, (at, ended.said)
    return True


def test_a_local_job_is_killed_at_its_operations_and_goes_on(here: Bench) -> None:
    """Before each; after each is before the next, as nothing else is kept anywhere between them."""
    assert here.operations > 80
    kills = 0
    for at in moments(here.operations, 1):
        killed = here.run(watched=here.sink, die_at=at)
        kills += died(here, at, killed)
        if not (Path(here.sink) / "_SUCCESS").exists():
            assert not (Path(here.sink) / "_optinfer" / "ended.json").exists()
        here.require_whole(here.run())
        here.empty()
    assert kills >= min(len(moments(here.operations, 1)), 80)


def test_a_replica_is_killed_at_its_operations_and_is_replaced(here: Bench) -> None:
    """The driver lives, and one command does it all."""
    seen = here.run(watched=here.sink, replicas=True)
    here.require_whole(seen)
    here.empty()
    assert len(seen.operations) > 30
    for at in moments(len(seen.operations), 4):
        ended = here.run(watched=here.sink, die_at=at, replicas=True)
        assert len(ended.operations) > at, "it was replaced"
        here.require_whole(ended)
        here.empty()


@pytest.mark.skipif(not refused_calls.POSSIBLE, reason="no filter of system calls here")
def test_a_job_on_a_disk_without_hard_links_is_done_and_one_that_cannot_be_safe_is_refused(here: Bench) -> None:
    here.require_whole(here.run(refused=refused_calls.NO_LINKS))
    here.empty()
    refused = here.run(refused=refused_calls.NO_EXCLUSIVE_NAMES)
    assert refused.code == 1
    assert "has neither hard links nor a rename that replaces nothing" in refused.said
    assert "Traceback" not in refused.said
    assert [name for name in os.listdir(here.sink) if name != "_optinfer"] == []


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_a_job_on_s3_is_killed_at_its_requests_and_goes_on(on_s3: Bench, done: bool) -> None:
    store = on_s3.store
    assert store is not None
    kills = 0
    for at in moments(on_s3.operations, 2 + done):
        store.asked.clear()
        store.meets = lambda method, path, headers, number=at: len(store.asked) == number + 1
        process = on_s3.start()
        store.forever = flaky_store.killing(process, done)
        killed = on_s3.commands.ended(process)
        kills += died(on_s3, at, killed)
        store.forever = None
        on_s3.require_whole(on_s3.run())
        on_s3.empty()
    assert kills >= min(len(moments(on_s3.operations, 2 + done)), 80)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_store_that_fails_now_and_then_costs_nothing_but_time(on_s3: Bench, seed: int) -> None:
    store, choice, met = on_s3.store, random.Random(seed), []
    assert store is not None
    store.asked.clear()
    names = sorted(FAULTS)

    def meets(method: str, path: str, headers: Headers) -> bool:
        return len(store.asked) > 1 and choice.random() < SHARE  # one that never answered is no outage

    def fault(handler: Any) -> bool:
        name = choice.choice(names)
        met.append((handler.command, name))
        return FAULTS[name](handler)

    store.meets, store.forever = meets, fault
    try:
        ended = on_s3.run()
    finally:
        store.forever = None
    assert len(met) > 5
    try:
        on_s3.require_whole(ended)
    except AssertionError as error:
        raise AssertionError(f"{error}\nmet: {met}") from error
    on_s3.empty()
