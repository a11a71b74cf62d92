"""One replica: rows in, outputs in the rows' own order, the bad ones rejected with a reason."""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optinfer.backends import Arrays
from optinfer.errors import ConfigError, LoadError, SourceError, UnavailableError
from optinfer.families import Features
from optinfer.inference.at_work import Step
from optinfer.inference.replica import Replica, ReplicaSettings
from tests.conftest import located
from tests.inference.hooked import Finish, Hooked, Ready

MakeReplica = Callable[..., Replica]


@pytest.fixture(scope="module")
def settings() -> ReplicaSettings:
    model = located()
    return ReplicaSettings(
        family="text-embedding",
        model=model,
        backend="fake",
        artifact=model,
        max_batch_tokens=256,
        max_batch_size=8,
    )


@pytest.fixture
def replica(settings: ReplicaSettings) -> Replica:
    return Replica(settings)


def texts(*values: str | None) -> pa.Table:
    return pa.table({"text": pa.array(values, pa.string())})


def real_texts(sample_table: Path, rows: int) -> pa.Table:
    return pq.read_table(sample_table, columns=["text"]).slice(0, rows)


def break_session(replica: Replica, fault: Callable[[Arrays, Arrays], Arrays]) -> None:
    """Pass every call of the session through `fault(inputs, outputs)`."""
    inner = replica.session

    class Broken:
        def __call__(self, inputs: Arrays) -> Arrays:
            return fault(inputs, inner(inputs))

    replica.session = Broken()


def test_settings_travel(settings: ReplicaSettings) -> None:
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_outputs_are_in_the_order_of_the_rows(replica: Replica, sample_table: Path) -> None:
    table = real_texts(sample_table, 50)
    together = replica.score(table)
    alone = [replica.score(table.slice(i, 1)).outputs["sentence_embedding"][0] for i in range(50)]
    assert together.kept.tolist() == list(range(50))
    np.testing.assert_allclose(together.outputs["sentence_embedding"], np.stack(alone), atol=1e-6)


def test_every_row_is_accounted_for(replica: Replica, sample_table: Path) -> None:
    stats = replica.score(real_texts(sample_table, 50)).stats
    assert (stats.rows_in, stats.rows_out, stats.rows_quarantined) == (50, 50, 0)
    assert stats.micro_batches == sum(stats.latencies.buckets.values()) > 1
    assert 0 < stats.tokens <= stats.padded_tokens


def test_null_texts_are_rejected_and_the_rest_is_scored(replica: Replica) -> None:
    scored = replica.score(texts("a", None, "b"))
    assert scored.kept.tolist() == [0, 2]
    assert scored.rejected == {1: "text is null"}
    assert scored.added.num_rows == 2


def test_empty_and_very_long_texts_are_scored(replica: Replica) -> None:
    scored = replica.score(texts("", "word " * 16_000))
    assert scored.kept.tolist() == [0, 1]
    assert scored.rejected == {}


def test_only_nulls_give_an_empty_table_with_the_schema(replica: Replica) -> None:
    scored = replica.score(texts(None, None))
    table = scored.added
    assert table.num_rows == 0
    assert table.schema == replica.family.schema


def test_one_row_that_breaks_the_model_costs_only_itself(replica: Replica) -> None:
    poison = 20

    def fail(inputs: Arrays, outputs: Arrays) -> Arrays:
        if (inputs["attention_mask"].sum(axis=1) == poison).any():
            raise ValueError("shape mismatch")
        return outputs

    values = ["word " * n for n in range(1, 31)]
    broken = int(np.flatnonzero(replica.family.preprocess(texts(*values)).lengths == poison)[0])
    break_session(replica, fail)

    scored = replica.score(texts(*values))
    assert scored.rejected == {broken: "ValueError: shape mismatch"}
    assert scored.kept.tolist() == [i for i in range(30) if i != broken]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_output_that_is_not_finite_is_no_answer(replica: Replica, value: float) -> None:
    def spoil(inputs: Arrays, outputs: Arrays) -> Arrays:
        outputs["sentence_embedding"][inputs["attention_mask"].sum(axis=1) == 4, 3] = value
        return outputs

    break_session(replica, spoil)
    scored = replica.score(texts("one", "two words", "three more words"))
    assert scored.rejected == {1: "the model's output is not finite"}
    assert len(scored.outputs["sentence_embedding"]) == 2
    assert (scored.stats.rows_out, scored.stats.rows_quarantined) == (2, 1)


def test_the_model_runs_one_micro_batch_at_a_time(replica: Replica, sample_table: Path) -> None:
    met = threading.Barrier(2)  # passes only when two threads are inside the model together
    overlaps = []

    def watch(inputs: Arrays, outputs: Arrays) -> Arrays:
        with contextlib.suppress(threading.BrokenBarrierError):
            overlaps.append(met.wait(timeout=0.5))
        return outputs

    break_session(replica, watch)
    table = real_texts(sample_table, 64)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: replica.score(table), range(4)))
    assert overlaps == []
    for result in results[1:]:
        np.testing.assert_array_equal(result.outputs["sentence_embedding"], results[0].outputs["sentence_embedding"])


@pytest.mark.parametrize(("threads", "patience", "overlap"), [(1, 0.3, False), (2, 60.0, True)])
def test_preprocessing_overlaps_with_the_model_where_there_is_a_second_core(
    settings: ReplicaSettings, threads: int, patience: float, overlap: bool
) -> None:
    replica = Replica(replace(settings, threads=threads))
    second_is_prepared, prepare = threading.Event(), replica.family.preprocess
    seen: list[bool | None] = []

    def note(table: pa.Table) -> Features:
        features = prepare(table)
        if table.column(0)[0].as_py() == "second":
            second_is_prepared.set()
        return features

    def wait(inputs: Arrays, outputs: Arrays) -> Arrays:
        if not seen:
            seen.append(None)
            other.start()
            seen[0] = second_is_prepared.wait(patience)
        return outputs

    other = threading.Thread(target=replica.score, args=(texts("second"),))
    replica.family.preprocess = note  # type: ignore[method-assign]
    break_session(replica, wait)
    replica.score(texts("first"))
    other.join()
    assert seen == [overlap]


def test_the_clock_is_the_callers(settings: ReplicaSettings) -> None:
    ticks = iter(range(1_000))
    replica = Replica(settings, clock=lambda: float(next(ticks)))
    stats = replica.score(texts("a", "b")).stats
    assert (stats.preprocess_seconds, stats.infer_seconds) == (1.0 + stats.micro_batches, 1.0 * stats.micro_batches)


def test_an_unknown_backend_suggests_the_nearest(settings: ReplicaSettings) -> None:
    with pytest.raises(ConfigError, match="did you mean 'onnxruntime'"):
        Replica(replace(settings, backend="onnxrunime"))


def test_the_job_decides_the_size_of_a_micro_batch(settings: ReplicaSettings) -> None:
    sizes: list[Any] = []
    replica = Replica(replace(settings, max_batch_size=3, max_batch_tokens=10_000))
    break_session(replica, lambda inputs, outputs: sizes.append(len(inputs["input_ids"])) or outputs)
    replica.score(texts(*"abcdefgh"))
    assert sizes == [3, 3, 2]


def test_a_model_that_answers_no_row_is_no_reason_to_quarantine_them(replica: Replica) -> None:
    def broken(inputs: Arrays, outputs: Arrays) -> Arrays:
        raise RuntimeError("no kernel image is available for this device")

    break_session(replica, broken)
    with pytest.raises(LoadError, match="the model answers no row here: RuntimeError: no kernel image"):
        replica.score(texts("a", "b", "c"))


def test_a_bad_micro_batch_of_a_model_that_works_is_quarantined(replica: Replica) -> None:
    def broken(inputs: Arrays, outputs: Arrays) -> Arrays:
        raise RuntimeError("bad rows")

    replica.score(texts("a", "b"))
    break_session(replica, broken)
    assert list(replica.score(texts("a", "b")).rejected.values()) == ["RuntimeError: bad rows"] * 2


def test_what_says_that_it_cannot_run_here_is_believed(replica: Replica) -> None:
    def broken(inputs: Arrays, outputs: Arrays) -> Arrays:
        raise UnavailableError("found nothing to compile")

    replica.score(texts("a", "b"))
    break_session(replica, broken)
    with pytest.raises(UnavailableError):
        replica.score(texts("a", "b"))


def test_an_artifact_the_backend_cannot_load_is_refused(settings: ReplicaSettings) -> None:
    artifact = replace(settings.artifact, format="openvino")
    with pytest.raises(ConfigError, match="backend fake loads torch, onnx, not openvino"):
        Replica(replace(settings, artifact=artifact))


def test_a_session_that_answers_with_another_number_of_rows_is_refused(replica: Replica) -> None:
    """It would shift all later answers, and its own baseline would agree."""
    break_session(replica, lambda inputs, outputs: {name: np.concatenate([v, v]) for name, v in outputs.items()})
    with pytest.raises(LoadError, match="gives 6 rows of 'sentence_embedding' for 3 rows"):
        replica.score(texts("a", "b", "c"))


@pytest.mark.parametrize("lost", [slice(1, None), slice(0, -1)])
def test_a_session_that_drops_a_row_is_refused_also_where_it_answered_before(replica: Replica, lost: slice) -> None:
    replica.score(texts("a", "b"))
    break_session(replica, lambda inputs, outputs: {name: v[lost] for name, v in outputs.items()})
    with pytest.raises(LoadError, match="gives 1 rows of 'sentence_embedding' for 2 rows"):
        replica.score(texts("c", "d"))


def test_answers_whose_size_varies_are_refused(replica: Replica) -> None:
    break_session(replica, lambda inputs, outputs: {"sentence_embedding": inputs["input_ids"].astype(np.float32)})
    with pytest.raises(LoadError, match="one size for all rows is needed"):
        replica.score(texts(*["one"] * 8, *[f"{i} words and more of them" for i in range(8)], "x", "y"))


def test_a_text_that_no_reader_can_decode_costs_only_itself(replica: Replica) -> None:
    raw = pa.array([b"good", b"caf\xe9 latin", b"\xed\xa0\x80 surrogate", b"better"], pa.binary())
    column = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    scored = replica.score(pa.table({"text": column}))
    assert scored.kept.tolist() == [0, 3]
    assert sorted(scored.rejected) == [1, 2]
    assert all("UnicodeDecodeError" in why for why in scored.rejected.values())
    expected = replica.score(texts("good", "better")).outputs["sentence_embedding"]
    np.testing.assert_allclose(scored.outputs["sentence_embedding"], expected, atol=1e-6)


def test_a_row_that_postprocess_cannot_finish_costs_only_itself(replica: Replica, settings: ReplicaSettings) -> None:
    poison = replica.score(texts("bad")).outputs["sentence_embedding"][0, 0]

    def picky(outputs: Arrays, own: Finish) -> pa.Table:
        if np.isclose(outputs["sentence_embedding"][:, 0], poison).any():
            raise KeyError("no such class")
        return own(outputs)

    scored = Replica(settings, family=Hooked(finish=picky)).score(texts("good", "bad", "better", "bad"))
    assert scored.kept.tolist() == [0, 2]
    assert scored.rejected == dict.fromkeys([1, 3], "KeyError: 'no such class'")
    assert scored.added.num_rows == 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda table: table.slice(1), "gives 2 rows for the answers to 3"),
        (lambda table: table.rename_columns(["vector"]), r"gives the columns vector .*, announced are embedding"),
    ],
)
def test_a_postprocess_that_does_not_keep_to_rows_or_schema_is_refused(
    settings: ReplicaSettings, wrong: Callable[[pa.Table], pa.Table], said: str
) -> None:
    replica = Replica(settings, family=Hooked(finish=lambda outputs, own: wrong(own(outputs))))
    with pytest.raises(LoadError, match=said):
        replica.score(texts("a", "b", "c"))


def test_bad_rows_are_told_from_a_broken_model_by_a_row_that_it_answered_before(settings: ReplicaSettings) -> None:
    width = {3: "no row may have three tokens"}

    def broken(inputs: Arrays, outputs: Arrays) -> Arrays:
        if why := width.get(inputs["input_ids"].shape[1]):
            raise RuntimeError(why)
        return outputs

    replica = Replica(replace(settings, canary=texts("the canary sings")))
    break_session(replica, broken)
    assert (
        list(replica.score(texts("a", "b", "c")).rejected.values())
        == ["RuntimeError: no row may have three tokens"] * 3
    )
    replica = Replica(replace(settings, canary=texts("silent")))
    break_session(replica, broken)
    with pytest.raises(LoadError, match="answers no row here"):
        replica.score(texts("a", "b", "c"))


def test_it_says_which_rows_are_at_work(settings: ReplicaSettings) -> None:
    """Repeated rows are at work together; nothing named means all."""
    seen: list[list[int]] = []

    def watch(step: Step) -> AbstractContextManager[object]:
        seen.append(step.rows.tolist())
        return contextlib.nullcontext()

    replica = Replica(settings, watch=watch)
    replica.score(texts("b", None, "a much longer text than the other", "b"))
    assert [rows for rows in seen if rows] == [[0, 2, 3]] or sorted(map(tuple, filter(None, seen))) == [(0, 3), (2,)]
    assert seen[0] == seen[-1] == []


def test_a_node_on_which_no_row_can_be_made_ready_is_no_reason_to_quarantine_them(settings: ReplicaSettings) -> None:
    replica = Replica(replace(settings, canary=texts("the canary sings")))
    assert len(replica.score(texts(None, None)).rejected) == 2, "the canary is answered: they are bad rows"

    def lacks(table: pa.Table, own: Ready) -> Features:
        if table.num_rows:
            raise ModuleNotFoundError("no module named cv2")
        return own(table)

    replica = Replica(replace(settings, canary=texts("the canary sings")), family=Hooked(ready=lacks))
    with pytest.raises(LoadError, match="answers no row here: ModuleNotFoundError: no module named cv2"):
        replica.score(texts("a", "b", "c"))


def test_a_canary_that_is_out_of_reach_says_nothing_of_the_replica(settings: ReplicaSettings) -> None:
    def reached(table: pa.Table, own: Ready) -> Features:
        if table["text"][0].as_py() == "the canary sings":
            raise SourceError("the store does not answer")
        return own(table)

    def broken(inputs: Arrays, outputs: Arrays) -> Arrays:
        raise RuntimeError("bad row")

    replica = Replica(replace(settings, canary=texts("the canary sings")), family=Hooked(ready=reached))
    break_session(replica, broken)
    with pytest.raises(SourceError, match="the store does not answer"):
        replica.score(texts("a", "b"))
