"""The benchmark's own arithmetic and bookkeeping; nothing is timed and no contestant runs."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from line_up import Bench, chosen, compete, line_up, rotated
from running import ContestantError
from scoreboard import (
    DAFT,
    NAIVE,
    OPTINFER,
    RAW,
    REFERENCE,
    WORKER,
    Run,
    Vectors,
    cosine,
    standings,
    steady_rows_per_second,
)
from tables import commits, cut_table, repeated, take_vectors
from throughput import main

from optinfer.errors import ConfigError

AXES = Vectors(np.array([0, 1]), np.eye(2, dtype=np.float32))


def run(seconds: float, rows: int = 100, steady: float | None = None, vectors: Vectors = AXES) -> Run:
    return Run(rows=rows, seconds=seconds, steady_rows_per_second=steady, vectors=vectors)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.parquet"
    pq.write_table(pa.table({"text": ["a", None, "b", "c"]}), path)
    return str(path)


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / "home"))
    for variable in ("HF_HUB_OFFLINE", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(variable, "1")
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).touch()
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return str(folder)


def test_speed_is_the_median_of_the_rounds():
    (result,) = standings({NAIVE: [run(10), run(50), run(20)]})
    assert result["rows_per_second"] == 5
    assert result["seconds"] == [10, 50, 20]


def test_ratios_are_over_the_peers_and_over_the_raw_loop_of_the_same_variant():
    results = standings(
        {
            NAIVE: [run(10, rows=50)],
            REFERENCE: [run(10)],
            DAFT: [run(5)],
            RAW + "v": [run(2)],
            WORKER + "v": [run(2.5, steady=45)],
            OPTINFER + "v": [run(4, steady=40)],
            RAW + "w": [run(1)],
        }
    )
    assert [r["ratio_naive"] for r in results] == [1, 2, 4, 10, 8, 5, 20]
    assert [r["ratio_sentence_transformers"] for r in results] == [0.5, 1, 2, 5, 4, 2.5, 10]
    assert [r["ratio_daft"] for r in results] == [0.25, 0.5, 1, 2.5, 2, 1.25, 5]
    assert [r["ratio_raw"] for r in results] == [None, None, None, None, 0.8, 0.5, None]
    assert [r["steady_ratio_raw"] for r in results[4:]] == [0.9, 0.8, None]


def test_a_missing_reference_gives_nulls():
    (result,) = standings({OPTINFER + "v": [run(1)]})
    assert [
        result[key] for key in ("ratio_naive", "ratio_daft", "ratio_raw", "cosine_mean", "steady_rows_per_second")
    ] == [None] * 5


def test_steady_speed_leaves_out_what_replicas_did_ahead_and_at_the_end():
    parts = [(10.0, 5), (10.5, 5), (12.0, 8), (12.5, 8), (14.0, 8), (14.5, 8), (20.0, 3), (21.0, 3)]
    assert steady_rows_per_second(parts[::-1], replicas=2) == 32 / (14.5 - 10.5)


@pytest.mark.parametrize("parts", [[], [(1.0, 5)], [(1.0, 5), (2.0, 5), (3.0, 5), (4.0, 5)], [(1.0, 5)] * 6])
def test_too_few_parts_have_no_steady_speed(parts):
    assert steady_rows_per_second(parts, replicas=2) is None


def test_vectors_are_compared_by_id_where_both_have_one():
    shuffled = Vectors(np.array([7, 1, 0]), np.array([[9, 9], [0, 2], [3, 0]], dtype=np.float32))
    assert cosine(AXES, shuffled).tolist() == [1, 1]


def test_each_round_starts_with_another_contestant():
    assert ["".join(rotated(["a", "b", "c"], number)) for number in range(4)] == ["abc", "bca", "cab", "abc"]


def test_a_contestant_that_fails_is_out_with_its_reason():
    def fails():
        raise ContestantError("exit code 1: no")

    runs, failed = compete({"good": lambda: run(1), "bad": fails}, repeats=2)
    assert len(runs.pop("good")) == 2
    assert (runs, failed) == ({}, {"bad": "exit code 1: no"})


def test_rows_without_text_are_left_out_and_none_is_repeated(source, tmp_path):
    assert cut_table(source, "text", 10, tmp_path / "cut.parquet") == 3
    assert pq.read_table(tmp_path / "cut.parquet").to_pydict() == {"id": [0, 1, 2], "text": ["a", "b", "c"]}


def test_an_unknown_column_says_what_could_not_be_read(source, tmp_path):
    with pytest.raises(ConfigError, match="column 'txt'"):
        cut_table(source, "txt", 10, tmp_path / "cut.parquet")


def test_a_repeated_table_has_no_two_texts_alike(source, tmp_path):
    texts = pa.chunked_array([["a", "b"], ["c"]])
    assert repeated(texts, 8).to_pylist() == ["a", "b", "c", "a 1", "b 1", "c 1", "a 2", "b 2"]
    assert repeated(texts, 2).to_pylist() == ["a", "b"]


def test_commits_are_read_from_the_parts_alone(tmp_path):
    (tmp_path / "_optinfer").mkdir()
    for name, rows in (("part-000000.parquet", 2), ("part-000001.parquet", 1), ("_optinfer/plan.pq", 9)):
        column = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 0.0] * rows, pa.float32()), 2)
        pq.write_table(
            pa.table({"id": [int(name[9:11] == "01") * 2 + i for i in range(rows)], "embedding": column}),
            tmp_path / name,
        )
    assert sorted(rows for _, rows in commits(tmp_path)) == [1, 2]
    (tmp_path / "_optinfer" / "plan.pq").unlink()
    assert take_vectors(tmp_path).values.shape == (3, 2)
    assert not tmp_path.exists()


def test_auto_and_all_name_variants():
    assert chosen("auto") == ["auto"]
    assert chosen("onnx-fp32,auto") == ["onnx-fp32", "auto"]
    assert {"torch-fp32", "openvino-int8-static"} <= set(chosen("all"))
    assert not {"auto", "torch-fp16-cuda"} & set(chosen("all"))


def test_the_layers_of_a_variant_run_side_by_side(tmp_path):
    bench = Bench(tmp_path, tmp_path / "t", 1, tmp_path / "t", 1, tmp_path)
    assert list(line_up(bench, {"auto": {}})) == [
        NAIVE,
        REFERENCE,
        DAFT,
        RAW + "auto",
        WORKER + "auto",
        OPTINFER + "auto",
    ]


def test_an_unknown_variant_is_refused_before_anything_runs(source, model, capsys):
    assert main(["--source", source, "--model", model, "--variants", "onnx-fp23"]) == 2
    assert "onnx-fp32" in capsys.readouterr().err


def test_the_last_stdout_line_is_the_record(source, model, capsys):
    options = ["--source", source, "--model", model, "--rows", "9", "--naive-rows", "2"]
    assert (
        main(
            options,
            prepare=lambda bench, variants: ({}, [{"name": "v", "reason": "no"}]),
            line_up=lambda bench, ready: {NAIVE: lambda: run(1), REFERENCE: lambda: run(2)},
        )
        == 0
    )
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (record["rows"], record["naive_rows"], record["source"]) == (3, 2, source)
    assert [result["name"] for result in record["results"]] == [NAIVE, REFERENCE]
    assert record["left_out"] == [{"name": "v", "reason": "no"}]
