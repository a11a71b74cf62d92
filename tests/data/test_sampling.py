"""The sample: the same rows every time, gate and calibration apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from optinfer.config import SourceConfig
from optinfer.data.reading import FragmentReader
from optinfer.data.sampling import Sample, digest, draw
from optinfer.data.sources.parquet import plan as plan_source
from tests.conftest import WriteTable

Draw = Callable[..., Sample]


@pytest.fixture
def draw_from(tmp_path: Path, write_table: WriteTable) -> Draw:
    def draw_from(texts: list[str | None], gate_rows: int = 10, calibration_rows: int = 5) -> Sample:
        path = write_table(tmp_path / "a.parquet", columns={"text": texts})
        source = SourceConfig(path=str(path), fragment_rows=10)
        planned = plan_source(source, ["text"], wanted_rows=10)
        return draw(planned.fragments, FragmentReader(["text"]), ["text"], gate_rows, calibration_rows)

    return draw_from


def texts(count: int) -> list[str | None]:
    return [f"text {i}" for i in range(count)]


def test_the_same_table_gives_the_same_sample(draw_from: Draw) -> None:
    first, second = draw_from(texts(200)), draw_from(texts(200))
    assert first.gate == second.gate
    assert first.calibration == second.calibration
    assert digest(first.gate) == digest(second.gate)


def test_gate_and_calibration_never_share_a_row(draw_from: Draw) -> None:
    sample = draw_from(texts(200))
    assert (sample.gate.num_rows, sample.calibration.num_rows) == (10, 5)
    assert not set(sample.gate["text"].to_pylist()) & set(sample.calibration["text"].to_pylist())


def test_the_sample_is_spread_over_the_table(draw_from: Draw) -> None:
    numbers = [int(text.split()[1]) for text in draw_from(texts(400), 40, 20).gate["text"].to_pylist()]
    assert min(numbers) < 100
    assert max(numbers) >= 300


def test_rows_without_a_text_are_left_out(draw_from: Draw) -> None:
    sample = draw_from([None, "a", None, "b", "c"], gate_rows=5)
    assert sample.gate["text"].null_count == sample.calibration["text"].null_count == 0


def test_a_fragment_without_any_text_gives_the_sample_nothing(draw_from: Draw) -> None:
    sample = draw_from([None] * 10 + texts(10), gate_rows=5)
    assert sample.gate.num_rows == 5


def test_a_table_without_any_text_gives_an_empty_sample(draw_from: Draw) -> None:
    sample = draw_from([None] * 20)
    assert (sample.gate.num_rows, sample.calibration.num_rows) == (0, 0)


@pytest.mark.parametrize(("rows", "gate", "calibration"), [(12, 8, 4), (1, 1, 0)])
def test_a_table_too_small_for_both_gives_two_thirds_to_the_gate(
    draw_from: Draw, rows: int, gate: int, calibration: int
) -> None:
    sample = draw_from(texts(rows))
    assert (sample.gate.num_rows, sample.calibration.num_rows) == (gate, calibration)


def test_the_gate_never_gets_more_rows_than_the_job_asks_for(draw_from: Draw) -> None:
    assert draw_from(texts(30), gate_rows=8, calibration_rows=300).gate.num_rows == 8


def test_other_rows_have_another_digest(draw_from: Draw) -> None:
    assert digest(draw_from(texts(20)).gate) != digest(draw_from([*texts(19), "other"] * 2).gate)
