"""The model itself is proved first: by its own library, by rows in other company, on rows that may end the process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from optinfer.backends import Arrays
from optinfer.config import GateConfig
from optinfer.errors import GateError, LoadError, NoVariantError
from optinfer.families import Reference
from optinfer.inference.invariance import invariance
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.optimization.baseline import Answers, answers_apart, kept_apart, read, require_sound
from tests.conftest import located
from tests.inference.hooked import Hooked

TEXTS = pa.table({"text": [f"package {i} " + "word " * (i % 7) for i in range(20)]})


def settings(folder: Path, **faults: Any) -> ReplicaSettings:
    """Return a replica of the real model's tokens, with faults (see plugins/optinfer_faults.py)."""
    (folder / "calls").mkdir(exist_ok=True)
    model = located()
    artifact = replace(model, load_options={"folder": str(folder), **faults})
    return ReplicaSettings(family="text-embedding", model=model, backend="faulty", artifact=artifact)


def silent(line: str) -> None:
    pass


def test_sampled_rows_that_kill_or_raise_are_named_and_the_proof_goes_on(tmp_path: Path) -> None:
    rows = pa.table({"text": ["one", "deadly " * 40, "two words", "word " * 20, None, "three more words"]})
    said: list[str] = []
    faulty = settings(tmp_path, die_at_width=42, raise_at_width=22)
    answers = answers_apart(faulty, rows, said.append)
    assert answers.kept.tolist() == [0, 2, 5]
    assert sorted(answers.rejected) == [1, 3, 4]
    assert "SIGKILL" in answers.rejected[1]
    assert "3 rows of the sample cannot be scored: row 1 of it: the row ends the replica's process: SIGKILL" in said[0]
    assert kept_apart(faulty, rows).tolist() == [0, 2, 5]


def test_a_sample_without_a_row_that_can_be_scored_is_no_proof(tmp_path: Path) -> None:
    with pytest.raises(NoVariantError, match="no row that the baseline can score: text is null"):
        answers_apart(settings(tmp_path), pa.table({"text": pa.array([None, None], pa.string())}), silent)


def test_what_was_answered_is_kept_as_it_was_and_damage_is_no_answer(tmp_path: Path) -> None:
    outputs = {"label": np.array([2**60 + 1, 3]), "name": np.array(["a", "été"], dtype=object), "p": np.ones((2, 3))}
    reference = Reference(library="x", version="1", rows=2, largest_difference=0.5, tolerance=0.1)
    answers = Answers(outputs, np.array([0, 4]), 0.25, reference, {1: "null", 3: "SIGSEGV"})
    path = tmp_path / "kept.npz"
    path.write_bytes(answers.packed())
    found = read(path)
    assert found is not None
    assert (found.reference, found.rejected, found.largest_difference) == (reference, answers.rejected, 0.25)
    assert {name: values.tolist() for name, values in found.outputs.items()} == {
        name: values.tolist() for name, values in outputs.items()
    }
    for damage in (b"", b"PK\x03\x04 garbage", path.read_bytes()[:-30]):
        path.write_bytes(damage)
        assert read(path) is None


def test_a_library_that_answers_otherwise_ends_the_proof() -> None:
    reference = Reference(library="library", version="9", rows=64, largest_difference=0.3, tolerance=1e-4, note="row 5")
    answers = Answers({"v": np.ones((2, 2))}, np.arange(2), 0.0, reference)
    with pytest.raises(
        GateError, match=r"library 9 gives other answers .* up to 0\.3, rounding explains 0\.0001 \(row 5\)"
    ):
        require_sound(answers, GateConfig(min=-1.0, require_batch_invariance=False))
    require_sound(replace(answers, reference=replace(reference, largest_difference=1e-5)), GateConfig())
    require_sound(replace(answers, reference=Reference(note="not installed")), GateConfig())


class Reversing:
    """Answers the rows of a micro-batch in the opposite order: as many answers, to other rows."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __call__(self, inputs: Arrays) -> Arrays:
        return {name: values[::-1] for name, values in self._inner(inputs).items()}


def test_answers_in_another_order_are_no_rows_own(tmp_path: Path) -> None:
    """The variant would do the same as its baseline, so comparing the two would not show it."""
    replica = Replica(settings(tmp_path))
    replica.session = Reversing(replica.session)  # type: ignore[assignment]
    scored = replica.score(TEXTS)
    moved = invariance(replica, TEXTS, scored)
    assert min(moved["as scored"], moved["neighbours"]) > 0.5
    answers = Answers(scored.outputs, scored.kept, max(moved.values()))
    with pytest.raises(GateError, match="other answers when its neighbours in a micro-batch change"):
        require_sound(answers, GateConfig())
    require_sound(answers, GateConfig(require_batch_invariance=False))


@pytest.mark.parametrize(("longest", "widest"), [(12, 12), (None, 18)])
def test_padding_stays_within_what_the_model_takes(tmp_path: Path, longest: int | None, widest: int) -> None:
    bounded = Hooked(ready=lambda table, own: replace(own(table), longest=longest))
    replica, widths = Replica(settings(tmp_path), family=bounded), []

    class Noting:
        def __call__(self, inputs: Arrays) -> Arrays:
            widths.append(inputs["input_ids"].shape[1])
            return inner(inputs)

    inner = replica.session
    table = pa.table({"text": ["word " * 7, "a b c"]})  # nine tokens and five
    scored = replica.score(table)
    replica.session = Noting()  # type: ignore[assignment]
    assert "padding" in invariance(replica, table, scored)
    assert max(widths) == widest


def test_a_model_that_answers_nothing_says_why(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="the model answers no row here: ValueError: no row may be 3 wide"):
        answers_apart(settings(tmp_path, raise_at_width=3), pa.table({"text": ["a", "b", "c"]}), silent)


def test_a_model_that_refuses_company_is_proved_by_its_rows_alone(tmp_path: Path) -> None:
    """T5's classifier raises where rows of a micro-batch have different numbers of `</s>`: each alone is fine."""

    class Unsociable:
        def __call__(self, inputs: Arrays) -> Arrays:
            if len(inputs["input_ids"]) > 1 and len(set(inputs["attention_mask"].sum(axis=1))) > 1:
                raise ValueError("all rows must be alike")
            return inner(inputs)

    replica = Replica(settings(tmp_path))
    inner = replica.session
    replica.session = Unsociable()  # type: ignore[assignment]
    scored = replica.score(TEXTS)
    assert len(scored.kept) == TEXTS.num_rows
    assert max(invariance(replica, TEXTS, scored).values()) == 0.0
