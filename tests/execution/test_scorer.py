"""The actor's work on fragments, without Ray."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optinfer.backends import Executed
from optinfer.config import SourceConfig
from optinfer.data.fragments import Fragment
from optinfer.data.output import Output
from optinfer.data.patience import Patience
from optinfer.data.reading import FragmentReader
from optinfer.data.sources.parquet import plan as plan_source
from optinfer.execution.scorer import FragmentScorer
from optinfer.execution.task import Meter, OneNode, ScoringTask
from optinfer.inference.answers import Scored, joined
from optinfer.inference.replica import Replica, ReplicaSettings, mortal
from optinfer.records.receipt import Receipt
from optinfer.system import outages
from tests.conftest import WriteTable, located
from tests.data import flaky_store
from tests.data.flaky_store import FlakyStore

PARTS = ("part-000000.parquet", "part-000001.parquet")
TABLES = ("table.parquet",) * 2
Score = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def task(tmp_path: Path, write_table: WriteTable) -> ScoringTask:
    write_table(tmp_path / "table.parquet", rows=16)
    model = located()
    return ScoringTask(
        pools=(ReplicaSettings(family="text-embedding", model=model, backend="fake", artifact=model),),
        source="parquet",
        sink="parquet",
        columns={"text": "text"},
        columns_read=["text"],
        carried=pa.schema([("id", pa.string())]),
        output_url=str(tmp_path / "out"),
        fingerprint="f1",
        on_error="raise",
        on_bad_file="raise",
    )


class Hooked:
    """Loads replicas that keep how many rows they were given."""

    def __init__(self) -> None:
        self.scored: list[int] = []

    def load(self, settings: ReplicaSettings) -> Replica:
        scored = self.scored

        class Counting(Replica):
            def score(self, table: pa.Table) -> Scored:
                scored.append(table.num_rows)
                return super().score(table)

        return Counting(settings)


@pytest.fixture
def hooked() -> Hooked:
    return Hooked()


def fragments(task: ScoringTask, *names: str) -> list[Fragment]:
    folder = Path(task.output_url).parent
    return [Fragment(i, str(folder / name), 8 * i, 8 * i + 8) for i, name in enumerate(names)]


def score(task: ScoringTask, *names: str, **actor: Any) -> list[dict[str, Any]]:
    """Score a run of two fragments of eight rows as a new actor; return its receipts."""
    run = [
        {"fragment": asdict(fragment), "part": part}
        for fragment, part in zip(fragments(task, *(names or TABLES)), PARTS, strict=True)
    ]
    receipts: list[dict[str, Any]] = json.loads(FragmentScorer(task, **actor)({"run": json.dumps(run)})["receipts"])
    return receipts


def test_a_run_of_fragments_gives_a_receipt_each(task: ScoringTask) -> None:
    receipts = score(task)
    assert [(r["made"]["fragment"], r["part"], r["stats"]["rows_out"]) for r in receipts] == [
        (0, PARTS[0], 8),
        (1, PARTS[1], 8),
    ]
    assert Output(task.output_url).sink.committed() == set(PARTS)


def test_a_fragment_that_a_dead_replica_committed_is_not_scored_again(task: ScoringTask, tmp_path: Path) -> None:
    first = score(task)
    before = [(tmp_path / "out" / part).stat().st_mtime_ns for part in PARTS]
    again = score(task)
    assert [(r["made"]["fragment"], r["stats"]["rows_out"], r["stats"]["bytes_out"]) for r in again] == [
        (r["made"]["fragment"], r["stats"]["rows_out"], r["stats"]["bytes_out"]) for r in first
    ]
    assert [r["stats"]["micro_batches"] for r in again] == [0, 0]
    assert [(tmp_path / "out" / part).stat().st_mtime_ns for part in PARTS] == before


class Leaving(OneNode):
    """Nodes of which `lost` has gone, and ours leaves once so many fragments were begun."""

    def __init__(self, after: int = 99) -> None:
        self._left = after

    def gone(self, node: str) -> bool:
        return node == "lost"

    def leaving(self) -> bool:
        self._left -= 1
        return self._left < 0

    def leave(self) -> None:
        raise KeyboardInterrupt


def test_a_fragment_whose_node_was_lost_is_not_isolated_the_first_time(task: ScoringTask, hooked: Hooked) -> None:
    """A node that goes takes what it was at with it, which says nothing of the rows; of two such nodes it may."""
    attempts = Output(task.output_url).attempts
    for part, node in zip(PARTS, ("lost", "here"), strict=True):
        attempts.begin(part, node)
    found = score(task, load=hooked.load, nodes=Leaving())
    assert [receipt["taken_over"]["why"] for receipt in found] == ["lost", "died"]
    assert hooked.scored == [8], "the first in place, the second, whose node lives, in a process of its own"
    for part in PARTS:
        (Path(task.output_url) / part).unlink()
    score(task, load=hooked.load, nodes=Leaving())
    assert hooked.scored == [8], "both were begun twice by now"


def test_a_node_that_leaves_ends_with_the_fragment_at_hand_and_marks_no_other_as_begun(task: ScoringTask) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(task, nodes=Leaving(after=1))
    output = Output(task.output_url)
    assert output.sink.committed() == {PARTS[0]}
    assert output.attempts.begin(PARTS[1], "elsewhere") is None


class Told(OneNode):
    """Nodes of which each leaves when it was asked so often whether it does."""

    def __init__(self, name: str, asked: int) -> None:
        self._name, self._left = name, asked

    def here(self) -> str:
        return self._name

    def leaving(self) -> bool:
        self._left -= 1
        return self._left < 0

    def leave(self) -> None:
        raise KeyboardInterrupt


def test_a_node_that_leaves_gives_a_fragment_back_after_the_micro_batch_at_work(
    task: ScoringTask, hooked: Hooked
) -> None:
    """Eight rows, two a micro-batch: the first node leaves in the third, the next one in the second."""
    whole = (replace(task.pools[0], max_batch_size=2),)
    for name, asked in (("first", 1 + 2), ("second", 1 + 1)):
        nodes = Told(name, asked)
        with pytest.raises(KeyboardInterrupt):
            score(replace(task, pools=whole), load=partial(mortal, leaving=nodes.leaving), nodes=nodes)
    assert not Output(task.output_url).sink.committed()
    taken, untouched = score(task, load=hooked.load)
    assert hooked.scored == [8, 8], "nothing died of these rows: none is tried in a process of its own"
    assert (taken["taken_over"]["why"], taken["taken_over"]["rows"]) == ("left", 4 + 2)
    assert taken["taken_over"]["seconds"] >= 0
    assert untouched["taken_over"] is None
    assert Receipt.heard(taken).as_dict()["taken_over"] == taken["taken_over"], "as the journal has it"


def test_who_takes_over_from_a_node_that_left_and_dies_of_it_is_no_node_that_left(task: ScoringTask) -> None:
    attempts = Output(task.output_url).attempts
    attempts.begin(PARTS[0], "first")
    attempts.give_back(PARTS[0], "first", 4)
    assert attempts.take_over(PARTS[0], "second")
    again = [receipt["taken_over"] for receipt in score(task)]
    assert again == [{"why": "died", "rows": None, "seconds": None}, None]


def test_a_node_that_leaves_waits_for_the_fragment_of_the_other_thread(task: ScoringTask) -> None:
    began, go_on = threading.Event(), threading.Event()

    class Slow(Replica):
        def score(self, table: pa.Table) -> Scored:
            began.set()
            go_on.wait()
            return super().score(table)

    scorer = FragmentScorer(task, load=Slow, nodes=Leaving(after=1))
    runs = [
        {"run": json.dumps([{"fragment": asdict(fragment), "part": part}])}
        for fragment, part in zip(fragments(task, "table.parquet", "table.parquet"), PARTS, strict=True)
    ]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(scorer, runs[0])
        began.wait()
        second = pool.submit(scorer, runs[1])
        go_on.set()
        assert "error" not in first.result()["receipts"]
        with pytest.raises(KeyboardInterrupt):
            second.result()
    assert Output(task.output_url).sink.committed() == {PARTS[0]}


def test_a_fragment_that_another_artifact_made_is_refused(task: ScoringTask, tmp_path: Path) -> None:
    score(task)
    other = replace(task, pools=(replace(task.pools[0], artifact=replace(located(), key="another")),))
    (receipt,) = score(other)
    assert receipt["error"] == "OutputConflictError"
    assert "committed by another run with other content" in receipt["message"]


def test_a_run_ends_with_its_first_error(task: ScoringTask) -> None:
    (receipt,) = score(task, "no-such.parquet", "table.parquet")
    assert receipt["error"] == "SourceError"
    assert Output(task.output_url).sink.committed() == set()


def test_a_variant_that_does_not_load_says_so_and_begins_nothing(task: ScoringTask, tmp_path: Path) -> None:
    broken = replace(task, pools=(replace(task.pools[0], backend="no-such"),))
    (receipt,) = score(broken)
    assert receipt["error"] == "LoadError"
    assert "cannot load the variant: no backends plugin" in receipt["message"]
    assert Output(task.output_url).attempts.begin(PARTS[0], "here") is None


def planned(task: ScoringTask, **options: Any) -> list[dict[str, Any]]:
    """Write a table of two row groups, plan it, and return what a replica is given."""
    path = Path(task.output_url).parent / "table.parquet"
    table = pa.table({"id": [str(i) for i in range(16)], "text": [f"a text {i}" for i in range(16)]})
    pq.write_table(table, path, row_group_size=8, compression="none", use_dictionary=False, **options)
    plan = plan_source(SourceConfig(path=str(path), fragment_rows=8), ["text", "id"], wanted_rows=8)
    return [{"fragment": asdict(f), "part": plan.part_name(f.index)} for f in plan.fragments]


def quarantining(task: ScoringTask, run: list[dict[str, Any]]) -> list[dict[str, Any]]:
    scorer = FragmentScorer(replace(task, on_bad_file="quarantine"))
    receipts: list[dict[str, Any]] = json.loads(scorer({"run": json.dumps(run)})["receipts"])
    return receipts


def test_rows_that_the_decoder_refuses_are_quarantined_where_the_job_says_so(task: ScoringTask) -> None:
    run = planned(task, write_page_checksum=True)
    path = Path(run[0]["fragment"]["path"])
    stat, data = path.stat(), path.read_bytes()
    path.write_bytes(data.replace(b"a text 12", b"another12"))  # in the second row group
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    receipts = quarantining(task, run)
    assert [(r["stats"]["rows_out"], r["stats"]["rows_quarantined"]) for r in receipts] == [(8, 0), (0, 8)]


def test_rows_of_a_file_that_changed_are_never_quarantined(task: ScoringTask) -> None:
    run = planned(task)
    path = Path(run[0]["fragment"]["path"])
    path.write_bytes(path.read_bytes().replace(b"a text 12", b"another12"))
    (receipt,) = quarantining(task, run)
    assert (receipt["error"], "changed since it was planned" in receipt["message"]) == ("SourceError", True)
    assert Output(task.output_url).sink.committed() == set()


class Impatient(ScoringTask):
    """A task whose files are asked for once."""

    def reader(self) -> FragmentReader:
        return FragmentReader(["text", "id"], Patience(seconds=0.0))


def test_rows_out_of_reach_are_never_quarantined(task: ScoringTask) -> None:
    run = planned(task)
    path = Path(run[0]["fragment"]["path"])
    path.unlink()
    path.symlink_to(path)  # which leads nowhere, and is there
    (receipt,) = quarantining(Impatient(**vars(task)), run)
    assert (receipt["error"], "Too many levels of symbolic links" in receipt["message"]) == ("SourceError", True)
    assert Output(task.output_url).sink.committed() == set()


@pytest.fixture
def mixed(task: ScoringTask) -> ScoringTask:
    """Return a task of two variants, `fast` on GPUs and `slow` beside it."""
    (own,), artifact = task.pools, replace(located(), key="another")
    return replace(
        task,
        pools=(
            replace(own, variant="fast", device="cuda", max_batch_tokens=4096),
            replace(own, variant="slow", artifact=artifact),
        ),
    )


@pytest.mark.parametrize(("gpu", "variant"), [(True, "fast"), (False, "slow")])
def test_whether_it_was_given_a_gpu_decides_which_variant_an_actor_is(
    mixed: ScoringTask, gpu: bool, variant: str
) -> None:
    artifact = {"fast": mixed.pools[0].artifact.key, "slow": "another"}[variant]
    assert [(r["made"]["variant"], r["made"]["artifact"]) for r in score(mixed, settings=mixed.settings(gpu))] == [
        (variant, artifact)
    ] * 2
    assert [part and part.variant for part in Output(mixed.output_url).sink.read(PARTS)] == [variant] * 2


def test_an_actor_of_the_only_variant_asks_nobody_for_a_gpu(task: ScoringTask) -> None:
    assert [r["made"]["artifact"] for r in score(task)] == [task.pools[0].artifact.key] * 2


def test_what_the_other_variant_committed_is_taken_as_it_is(mixed: ScoringTask) -> None:
    score(mixed, settings=mixed.settings(gpu=False))
    again = score(mixed, settings=mixed.settings(gpu=True))  # begun already: told by the part
    Output(mixed.output_url).attempts.forget()
    late = score(mixed, settings=mixed.settings(gpu=True))  # not begun as far as it knows: told when it commits
    for receipts in (again, late):
        assert [(r["made"]["variant"], r["made"]["artifact"], r["stats"]["rows_out"]) for r in receipts] == [
            ("slow", "another", 8)
        ] * 2
    assert [r["stats"]["micro_batches"] for r in again] == [0, 0]


def test_a_fragment_is_isolated_with_the_actors_own_variant(mixed: ScoringTask) -> None:
    fast, slow = mixed.pools
    broken = replace(mixed, pools=(replace(fast, artifact=replace(fast.artifact, format="openvino")), slow))
    assert Output(mixed.output_url).attempts.begin(PARTS[0], "here") is None
    assert [r["made"]["variant"] for r in score(broken, settings=slow)] == ["slow"] * 2


class Lossy(Replica):
    """Loses the first answer of each call, or the whole row."""

    lost = "an answer"

    def score(self, table: pa.Table) -> Scored:
        scored = super().score(table)
        added = scored.added.slice(1)
        return replace(scored, added=added, **({} if self.lost == "an answer" else {"kept": scored.kept[1:]}))


class LosesRows(Lossy):
    lost = "a row"


@pytest.mark.parametrize("load", [Lossy, LosesRows])
def test_a_part_that_would_not_hold_every_row_is_never_committed(task: ScoringTask, load: type[Lossy]) -> None:
    """Whatever the engine says: rows that are neither scored nor rejected, or answers that are not one a row."""
    (receipt,) = score(task, load=load)
    assert receipt["error"] == "AccountingError"
    assert Output(task.output_url).sink.committed() == set()


class Server:
    """An engine that makes batches by itself: here of one row each."""

    limits = (0, 0)
    load_seconds = 0.5

    def __init__(self, settings: ReplicaSettings) -> None:
        self._model = Replica(settings)
        self.family = self._model.family

    def score(self, table: pa.Table) -> Scored:
        return joined([(np.array([row]), self._model.score(table.slice(row, 1))) for row in range(table.num_rows)])

    def executed(self) -> Executed:
        return self._model.executed()

    def invariance(self, sample: pa.Table, scored: Scored) -> Mapping[str, float]:
        return {}


def test_an_engine_that_batches_by_itself_scores_fragments(task: ScoringTask, tmp_path: Path) -> None:
    other = replace(task, output_url=str(tmp_path / "other"))
    receipts = score(task, load=Server)
    assert [(r["max_batch_tokens"], r["max_batch_size"], r["load_seconds"]) for r in receipts] == [(0, 0, 0.5)] * 2
    assert [r["stats"]["micro_batches"] for r in receipts] == [8, 8]
    score(other)
    for part in PARTS:
        assert pq.read_table(tmp_path / "out" / part).equals(pq.read_table(tmp_path / "other" / part))


def test_a_meter_that_raises_fails_no_row_and_is_said_once(task: ScoringTask, caplog: pytest.LogCaptureFixture) -> None:
    asked: list[str] = []

    def raising(labels: Mapping[str, str]) -> Meter:
        def count(receipt: Receipt) -> None:
            asked.append(receipt.part)
            raise RuntimeError("no agent")

        return count

    with caplog.at_level(logging.WARNING):
        receipts = score(task, meter=raising)
    assert [receipt["stats"]["rows_out"] for receipt in receipts] == [8, 8]
    assert len(asked) == 1
    assert [record.message for record in caplog.records if "metrics" in record.message] == [
        "this replica's metrics end here: RuntimeError: no agent"
    ]


def test_a_meter_that_cannot_be_made_fails_no_row(task: ScoringTask) -> None:
    def unmade(labels: Mapping[str, str]) -> Meter:
        raise ImportError("no metrics here")

    assert [receipt["stats"]["rows_out"] for receipt in score(task, meter=unmade)] == [8, 8]


def test_a_replicas_work_is_counted_under_job_variant_and_device(task: ScoringTask) -> None:
    assert task.labels(task.pools[0]) == {"job": "", "variant": "", "device": "cpu"}


def test_vectors_without_an_answer_keep_their_place_and_can_be_read(task: ScoringTask, tmp_path: Path) -> None:
    """Of a list of a fixed size pyarrow writes nulls that it cannot read again."""
    texts = [None if row == 2 else f"text {row}" for row in range(16)]
    texts[8:] = [None] * 8  # a fragment without any answer
    pq.write_table(pa.table({"id": [f"r{row}" for row in range(16)], "text": texts}), tmp_path / "table.parquet")
    score(replace(task, on_error="column"))
    found = pa.concat_tables(pq.read_table(tmp_path / "out" / part) for part in PARTS).to_pylist()
    assert [row["id"] for row in found] == [f"r{row}" for row in range(16)]
    assert [row["embedding"] is None for row in found] == [text is None for text in texts]
    assert [row["_error"] is None for row in found] == [text is not None for text in texts]
    assert {len(row["embedding"]) for row in found if row["embedding"]} == {384}


def test_a_refusal_that_meets_a_replica_first_is_waited_for_as_any_other(
    task: ScoringTask, bucket: str, flaky: FlakyStore
) -> None:
    """The driver holds the output: that its store refuses a new process once is no mistake in the job."""
    outages._answering.clear()  # as in a process that has asked nobody yet
    flaky.meets = lambda method, path, headers: method in ("PUT", "GET", "HEAD")
    flaky.faults = [flaky_store.refusal(403, "AccessDenied")] * 2
    run = [{"fragment": asdict(one), "part": part} for one, part in zip(fragments(task, *TABLES), PARTS, strict=True)]
    scorer = FragmentScorer(replace(task, output_url=f"{bucket}/out"))
    receipts = json.loads(scorer({"run": json.dumps(run)})["receipts"])
    assert [receipt.get("part", receipt) for receipt in receipts] == list(PARTS)
    assert not flaky.faults
