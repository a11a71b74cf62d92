"""An experiment in a table: whose each row is, and that its answer is that arm's own model's."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import optinfer
from optinfer.cli import cli
from optinfer.commands.outcomes import Measure, outcomes
from optinfer.data.output import Output
from optinfer.errors import ConfigError, GateError, OutputConflictError
from optinfer.execution.arms import dealt
from tests.conftest import points

ROWS = 400
Run = Callable[..., Any]


def expected_arm(key: object, shares: dict[str, float], name: str = "experiment") -> str:
    """Return whose a key is, by the words of docs/decide.md."""
    digest = blake2b(f"{name}\0{key}".encode(), digest_size=8).digest()
    number, edge = int.from_bytes(digest) / 2**64, 0.0
    for arm, share in sorted(shares.items()):
        edge += share
        if number < edge:
            return arm
    return "control"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Write rows of three numbers; every tenth has no key."""
    numbers = np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float32)
    columns = {
        "id": pa.array(range(ROWS)),
        "user": pa.array([None if row % 10 == 3 else row // 2 for row in range(ROWS)], pa.int64()),
        "x": pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), 3),
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def scaled(path: Path, factor: float) -> Path:
    """Write a model that gives the first two of three numbers, `factor` times."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(points(path, 3))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(factor * np.eye(3, 2, dtype=np.float32), "w"))
    onnx.save(model, path)
    return path


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    return {str(factor): scaled(tmp_path / f"times-{factor}.onnx", factor) for factor in (1, 2, 4)}


@pytest.fixture
def settings(tmp_path: Path, table: Path, models: dict[str, Path], own_store: str) -> dict[str, Any]:
    return {
        "name": "ab",
        "source": {"path": str(table), "columns": {"x": "x"}, "fragment_rows": 64},
        "model": {"path": str(models["1"]), "family": "tensor"},
        "variant": "onnx-fp32",
        "sink": {"path": str(tmp_path / "out"), "columns": ["id", "user"], "error_threshold": 0.2},
        "tracking": {"uri": own_store},
        "experiment": {
            "key": "user",
            "arms": {
                "fourfold": {"share": 0.2, "model": str(models["4"])},
                "double": {"share": 0.3, "model": str(models["2"])},
            },
        },
    }


@pytest.fixture
def run(settings: dict[str, Any], trials_here: None) -> Run:
    """Return what runs the job in this process, with changes of whole sections."""
    return lambda executor=None, **changes: optinfer.run(
        {**settings, **changes}, executor=executor or optinfer.InProcess()
    )


def rows_of(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Read the parts as they lie there."""
    parts = sorted(map(str, Path(settings["sink"]["path"]).glob("part-*.parquet")))
    rows: list[dict[str, Any]] = pads.dataset(parts).to_table().to_pylist()
    return rows


SHARES, FACTORS = {"fourfold": 0.2, "double": 0.3}, {"control": 1, "double": 2, "fourfold": 4}


def require_right(rows: list[dict[str, Any]], table: Path) -> None:
    """Hold every row against its key's hash, and its answer against its arm's factor."""
    given = {row["id"]: row for row in pq.read_table(table).to_pylist()}
    assert sorted(row["id"] for row in rows) == [name for name, row in given.items() if row["user"] is not None]
    for row in rows:
        assert row["arm"] == expected_arm(row["user"], SHARES)
        assert row["y"] == [FACTORS[row["arm"]] * value for value in given[row["id"]]["x"][:2]]
    assert {row["arm"] for row in rows} == set(FACTORS)


def test_every_row_is_one_arms_by_its_key_and_answered_by_that_arms_model(
    run: Run, settings: dict[str, Any], table: Path
) -> None:
    record = run()
    assert (record.rows_out, record.rows_quarantined) == (ROWS - ROWS // 10, ROWS // 10)
    assert {name: one.variant for name, one in record.arms.items()} == {"double": "onnx-fp32", "fourfold": "onnx-fp32"}
    require_right(rows_of(settings), table)
    aside = pq.read_table(next((Path(settings["sink"]["path"]) / "_quarantine").iterdir())).to_pylist()
    assert {(row["user"], row["arm"], row["_reason"]) for row in aside} == {
        (None, None, "user, by which arms are dealt, is null")
    }


def test_on_ray_and_with_failed_rows_in_place_it_is_the_same(
    run: Run, settings: dict[str, Any], table: Path, shared_ray: None
) -> None:
    from optinfer.execution.on_ray import OnRay

    record = run(executor=OnRay(None), sink={**settings["sink"], "on_error": "column"})
    rows = rows_of(settings)
    assert len(rows) == ROWS
    failed = [row for row in rows if row["_error"] is not None]
    assert (record.rows_quarantined, {row["y"] for row in failed}) == (len(failed), {None})
    require_right([{**row} for row in rows if row["_error"] is None], table)


def test_what_is_missing_is_scored_again_by_the_same_arms(run: Run, settings: dict[str, Any], table: Path) -> None:
    run()
    folder = Path(settings["sink"]["path"])
    before = {part.name: part.read_bytes() for part in folder.glob("part-*.parquet")}
    for name in list(before)[::2]:
        (folder / name).unlink()
    assert run().fragments_resumed == len(before) - len(list(before)[::2])
    require_right(rows_of(settings), table)


def test_other_fragments_deal_alike_and_another_name_deals_anew(
    run: Run, settings: dict[str, Any], table: Path, tmp_path: Path
) -> None:
    def arms(sink: str, rows: int, **experiment: Any) -> dict[int, str]:
        path = {**settings["sink"], "path": str(tmp_path / sink)}
        changes = {"source": {**settings["source"], "fragment_rows": rows}, "sink": path}
        run(**changes, experiment={**settings["experiment"], **experiment})
        return {row["id"]: row["arm"] for row in rows_of({"sink": path})}

    assert arms("large", 1000) == arms("small", 17)
    assert arms("other", 1000, name="next") != arms("large", 1000)


def test_a_part_that_a_dead_replica_had_begun_is_scored_apart_by_all_arms(
    run: Run, settings: dict[str, Any], table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optinfer.data.state import Attempts

    monkeypatch.setattr(Attempts, "begin", lambda self, part, node: node)  # as if it had been
    run(source={**settings["source"], "fragment_rows": 200})
    require_right(rows_of(settings), table)


def test_another_model_in_an_arm_is_another_job(run: Run, settings: dict[str, Any], models: dict[str, Path]) -> None:
    run()
    arms = {**settings["experiment"]["arms"], "fourfold": {"share": 0.2, "model": str(models["2"])}}
    with pytest.raises(OutputConflictError, match=r"experiment\.arms\.fourfold\.model"):
        run(experiment={**settings["experiment"], "arms": arms})


def test_a_key_means_the_same_as_a_number_and_as_a_text() -> None:
    numbers = pa.chunked_array([pa.array([1, None, 3]), pa.array([-4], pa.int64())])
    texts = pa.chunked_array([pa.array(["1", None, "3", "-4"]).dictionary_encode()])
    assert dealt(numbers, "e", [0.3, 0.3]).tolist() == dealt(texts, "e", [0.3, 0.3]).tolist()
    assert dealt(pa.chunked_array([pa.array([], pa.string())]), "e", [0.5]).tolist() == []


def test_shares_are_what_they_say_and_names_deal_independently() -> None:
    keys = pa.chunked_array([pa.array([f"k{number}" for number in range(100_000)])])
    first, second = dealt(keys, "a", [0.1, 0.4]), dealt(keys, "b", [0.5])
    assert np.bincount(first) / len(first) == pytest.approx([0.5, 0.1, 0.4], abs=0.005)
    assert np.corrcoef(first == 0, second == 0)[0, 1] == pytest.approx(0, abs=0.01)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no key": ({"key": None}, "an experiment has arms and a key"),
    "no such column": ({"key": "usr"}, "usr"),
    "a vector": ({"key": "x"}, r"experiment.key 'x' is of type fixed_size_list.*text or a whole number"),
    "all of it": ({"arms": {"a": {"share": 0.6, "variant": "auto"}, "b": {"share": 0.4, "variant": "auto"}}}, "add up"),
    "the control": ({"arms": {"control": {"share": 0.5, "variant": "auto"}}}, "control is the job itself"),
    "nothing of its own": ({"arms": {"a": {"share": 0.5}}}, "names a variant or a model"),
    "no such variant": ({"arms": {"a": {"share": 0.5, "variant": "onnx-fp31"}}}, "onnx-fp32"),
    "no such model": ({"arms": {"a": {"share": 0.5, "model": "nowhere.onnx"}}}, "nowhere"),
    "a column of the model's": ({"column": "y"}, "'y' is a column that the model adds"),
    "a carried column": ({"column": "id"}, "id"),
    "a column that is read": ({"column": "x"}, "x"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_experiment_is_refused_by_name(name: str, run: Run, settings: dict[str, Any]) -> None:
    changes, said = BAD[name]
    with pytest.raises(ConfigError, match=said):
        run(experiment={**settings["experiment"], **changes})
    assert not list(Path(settings["sink"]["path"]).glob("part-*"))


def test_an_arm_of_other_columns_is_refused(run: Run, settings: dict[str, Any], tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    other = onnx.load(points(tmp_path / "other.onnx", 3))
    other.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 3]))
    other.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "w"))
    onnx.save(other, tmp_path / "other.onnx")
    arms = {"wide": {"share": 0.5, "model": str(tmp_path / "other.onnx")}}
    with pytest.raises(ConfigError, match=r"experiment\.arms\.wide: .*one table holds the answers of all arms"):
        run(experiment={"key": "user", "arms": arms})


def test_an_arm_that_fails_its_gate_is_named(run: Run) -> None:
    arms = {"rounded": {"share": 0.5, "variant": "onnx-int8-dynamic"}}
    with pytest.raises(GateError, match=r"experiment\.arms\.rounded: "):
        run(experiment={"key": "user", "arms": arms}, gate={"min": 0.9999999})


def bought(**changes: Any) -> Measure:
    return Measure(key="user", outcome="bought", **changes)


class TestOutcomes:
    """Outcomes with a planted effect, joined to a real output of 20,000 keys."""

    @pytest.fixture
    def output(self, run: Run, settings: dict[str, Any], tmp_path: Path, models: dict[str, Path]) -> str:
        keys = 20_000
        numbers = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(3 * keys, dtype=np.float32)), 3)
        many = pa.table({"id": pa.array(range(keys)), "user": pa.array(range(keys)), "x": numbers})
        pq.write_table(many, tmp_path / "many.parquet")
        arms = {"new": {"share": 0.25, "model": str(models["2"])}}
        run(
            source={"path": str(tmp_path / "many.parquet"), "columns": {"x": "x"}},
            experiment={"key": "user", "arms": arms},
        )
        return str(settings["sink"]["path"])

    def table(self, folder: Path, output: str, lift: float, keep: float = 1.0) -> str:
        """Write an outcome for (some of) the keys, more often true for the arm; return the file."""
        random, rows = np.random.default_rng(7), rows_of({"sink": {"path": output}})
        there = [row for row in rows if random.random() < keep]
        happened = [bool(random.random() < 0.3 + lift * (row["arm"] == "new")) for row in there]
        columns = {"user": [str(row["user"]) for row in there], "bought": happened}
        pq.write_table(pa.table(columns), folder / "outcomes.parquet")
        return str(folder / "outcomes.parquet")

    def test_a_planted_effect_is_found_within_its_interval(self, output: str, tmp_path: Path) -> None:
        record = outcomes([output], self.table(tmp_path, output, lift=0.05), bought())
        found = record.arms["new"]
        assert found.verdict == "better"
        assert found.difference is not None
        assert found.at_one_look is not None
        assert 0 < found.difference.low < found.at_one_look.low < 0.05 < found.at_one_look.high < found.difference.high
        assert (sum(record.keys.values()), record.without_outcome, record.misdealt) == (20_000, 0, None)

    def test_nothing_planted_is_nothing_found_and_lower_may_be_better(self, output: str, tmp_path: Path) -> None:
        same = outcomes([output], self.table(tmp_path, output, lift=0.0), bought(margin=0.03))
        assert same.arms["new"].verdict == "not worse"
        worse = outcomes([output], self.table(tmp_path, output, lift=0.05), bought(lower_is_better=True, margin=0.01))
        assert worse.arms["new"].verdict == "worse"

    def test_few_outcomes_cannot_tell(self, output: str, tmp_path: Path) -> None:
        record = outcomes([output], self.table(tmp_path, output, lift=0.3, keep=0.003), bought())
        assert (record.arms["new"].verdict, record.arms["new"].difference) == ("cannot tell", None)
        assert record.without_outcome > 19_000

    def test_outcomes_that_one_arm_lacks_are_told(self, output: str, tmp_path: Path) -> None:
        table = pq.read_table(self.table(tmp_path, output, lift=0.0))
        new = {str(row["user"]) for row in rows_of({"sink": {"path": output}}) if row["arm"] == "new"}
        kept = [number for number, user in enumerate(table["user"].to_pylist()) if user not in new or number % 5]
        pq.write_table(table.take(kept), tmp_path / "outcomes.parquet")
        result = CliRunner().invoke(
            cli, ["outcomes", output, str(tmp_path / "outcomes.parquet"), "--key", "user", "--outcome", "bought"]
        )
        assert result.exit_code == 0, result.output
        assert "warning: the arms are not of the sizes that they were dealt in" in result.output

    def test_bad_tables_are_refused_by_name(self, output: str, table: Path, tmp_path: Path) -> None:
        good = self.table(tmp_path, output, lift=0.0)
        twice = pa.concat_tables([pq.read_table(good), pq.read_table(good).slice(5, 1)])
        pq.write_table(twice, tmp_path / "twice.parquet")
        words = pa.table({"user": ["1"], "bought": ["yes"]})
        pq.write_table(words, tmp_path / "words.parquet")
        cases: list[tuple[str, str, str, str, str]] = [
            (output, str(tmp_path / "twice.parquet"), "user", "bought", "more than one bought for user"),
            (output, str(tmp_path / "words.parquet"), "user", "bought", "of type string; an outcome is a number"),
            (output, good, "id", "bought", "'id'"),
            (output, good, "user", "paid", "'paid'"),
            (str(tmp_path), good, "user", "bought", "no output of a job with an experiment"),
        ]
        for outputs, file, key, outcome, said in cases:
            with pytest.raises(ConfigError, match=said):
                outcomes([outputs], file, Measure(key=key, outcome=outcome))

    def test_a_column_that_did_not_deal_is_refused(self, run: Run, settings: dict[str, Any], tmp_path: Path) -> None:
        run()  # two rows a user
        pq.write_table(pa.table({"half": [1], "bought": [1]}), tmp_path / "half.parquet")
        job = Output(settings["sink"]["path"]).binding.job()
        assert job is not None
        with pytest.raises(ConfigError, match="half"):
            outcomes([settings["sink"]["path"]], str(tmp_path / "half.parquet"), Measure(key="half", outcome="bought"))
