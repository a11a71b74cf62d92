"""`promote`: an alias of a real registry moves where the rule holds of a real comparison, and the next job follows it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

import optinfer
from optinfer.commands import promote as promotion
from optinfer.commands.compare import compare
from optinfer.config import JobConfig
from optinfer.errors import AliasMovedError, ConfigError
from optinfer.execution.in_process import InProcess
from optinfer.execution.placement import Node
from optinfer.job_file import parse_job
from optinfer.records.decision import CompareRecord
from tests.commands.test_compare import Digits
from tests.conftest import RunCli, free_ports, read_rows
from tests.tracking.mlflow_server import mlflow_server

NOT_WORSE = {"difference": {"not_worse_by": 0.005}}
pytestmark = pytest.mark.usefixtures("trials_here")


class Seen:
    """A store with a registered model of three versions, and what was compared in it."""

    def __init__(self, folder: Path, empty_store: Path) -> None:
        self.digits = Digits(folder)
        self.file = folder / "mlflow.db"
        shutil.copy(empty_store, self.file)
        client = MlflowClient(tracking_uri=f"sqlite:///{self.file}")
        client.create_registered_model("digits")
        for name in ("poor", "good", "good"):
            source = folder / name / "onnx"
            source.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / f"{name}.onnx", source / "model.onnx")
            client.create_model_version("digits", source.as_uri())
        client.set_registered_model_alias("digits", "champion", "1")
        client.set_registered_model_alias("digits", "candidate", "2")
        self.compared: CompareRecord | None = None


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Seen:
    return Seen(tmp_path_factory.mktemp("digits"), empty_store)


@pytest.fixture
def store(seen: Seen, tmp_path: Path) -> str:
    """Return the address of a test's own copy of the store."""
    shutil.copy(seen.file, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def client(store: str) -> MlflowClient:
    return MlflowClient(tracking_uri=store)


@pytest.fixture
def settings(seen: Seen, tmp_path: Path, store: str) -> dict[str, Any]:
    return {
        "name": "digits",
        "source": {"path": str(seen.digits.table), "columns": {"X": "X"}},
        "model": {"path": "models:/digits@champion", "family": "tensor"},
        "variant": "onnx-fp32",
        "gate": {"label": "digit", "sample_rows": 64},
        "tracking": {"experiment": "promoted", "uri": store},
        "sink": {"path": str(tmp_path / "out" / "{model_version}"), "columns": ["id"]},
        "promote": {"when": NOT_WORSE},
    }


Job = Callable[..., JobConfig]


@pytest.fixture
def job(settings: dict[str, Any]) -> Job:
    return lambda **changes: parse_job({**settings, **changes})


@pytest.fixture
def compared(seen: Seen, job: Job) -> CompareRecord:
    """Return what was compared in the store before it was copied: the champion with the candidate."""
    if seen.compared is None:
        seen.compared = compare(job(), "models:/digits@candidate", by=["half"], rows=300)
    return seen.compared


def aliases(client: MlflowClient) -> dict[str, str]:
    found = client.get_registered_model("digits").aliases
    return {name: str(version) for name, version in found.items() if name != "candidate"}


def ran(config: JobConfig) -> Any:
    return optinfer.run(config, executor=InProcess([Node(cpus=1)]))


class TestThatHolds:
    def test_moves_the_alias_keeps_the_previous_one_and_says_why(
        self, job: Job, client: MlflowClient, compared: CompareRecord
    ) -> None:
        client.update_model_version("digits", "2", "trained on 600 rows")
        record = promotion.promote_compared(job(), compared)
        assert (record.status, record.before, record.after) == ("promoted", "1", "2")
        assert aliases(client) == {"champion": "2", "previous": "1"}
        version = client.get_model_version("digits", "2")
        assert version.tags["optinfer.champion.over"] == "1"
        assert version.tags["optinfer.champion.compared"] == compared.run_id
        assert "difference.not_worse_by 0.005" in version.tags["optinfer.champion.why"]
        first, *_, last = (version.description or "").splitlines()
        assert first == "trained on 600 rows"
        assert last.startswith("optinfer: champion since ")
        assert compared.difference is not None
        assert f"{compared.difference.low:+.4f}" in last

    def test_the_next_job_takes_it_into_its_own_output_and_goes_back_with_it(
        self, job: Job, compared: CompareRecord, seen: Seen, tmp_path: Path
    ) -> None:
        first = ran(job())
        promotion.promote_compared(job(), compared)
        second = ran(job())
        assert (first.output, second.output) == (str(tmp_path / "out" / "1"), str(tmp_path / "out" / "2"))
        for number, name in (("1", "poor"), ("2", "good")):
            rows = read_rows(tmp_path / "out" / number)
            column = next(key for key in rows[0] if "label" in key)
            assert [row[column] for row in rows] == seen.digits.predicted(name).tolist()
        promotion.roll_back(job())
        assert (ran(job()).status, ran(job()).output) == ("nothing to do", first.output)

    def test_a_dry_run_decides_and_moves_nothing(self, job: Job, client: MlflowClient, compared: CompareRecord) -> None:
        assert promotion.promote_compared(job(), compared, dry_run=True).status == "would promote"
        assert aliases(client) == {"champion": "1"}
        assert not client.get_model_version("digits", "2").tags

    def test_the_same_again_has_nothing_to_do(self, job: Job, client: MlflowClient, compared: CompareRecord) -> None:
        promotion.promote_compared(job(), compared)
        assert promotion.promote_compared(job(), compared).status == "nothing to do"
        assert aliases(client) == {"champion": "2", "previous": "1"}

    def test_it_compares_by_itself_when_it_is_given_a_challenger(self, job: Job, client: MlflowClient) -> None:
        by_slice = {"when": {"slices": {"not_worse_by": 0.5}}}
        record = promotion.promote(job(promote=by_slice), "models:/digits@candidate", by=["half"], rows=200)
        assert record.status == "promoted"
        assert "lowest of 2" in record.clauses[0].found
        assert aliases(client)["champion"] == "2"

    def test_an_mlflow_run_is_read_as_the_file_is(
        self, job: Job, client: MlflowClient, tmp_path: Path, run_cli: RunCli
    ) -> None:
        record = compare(job(), "models:/digits@candidate", rows=200)
        assert record.mlflow is not None
        file = tmp_path / "compared.json"
        file.write_text(json.dumps(record.as_dict()))
        of_run, of_file = (promotion.read_comparison(s, job()) for s in (f"runs:/{record.mlflow.run_id}", str(file)))
        assert of_run.champion == of_file.champion == record.champion
        assert promotion.promote_compared(job(), of_run).status == "promoted"


class TestThatDoesNotHold:
    @pytest.mark.parametrize(
        ("when", "says"),
        [
            ({"difference": {"better_by": 0.9}}, "accuracy +"),
            ({"cost": {"at_most": 2.0}}, "names no price"),
            ({**NOT_WORSE, "slices": {"not_worse_by": 0}, "cost": {"at_most": 1.0}}, "names no price"),
        ],
    )
    def test_moves_nothing(
        self, job: Job, client: MlflowClient, compared: CompareRecord, when: dict[str, Any], says: str
    ) -> None:
        record = promotion.promote_compared(job(promote={"when": when}), compared)
        assert record.status == "refused"
        assert any(says in one.found for one in record.clauses if not one.holds)
        assert aliases(client) == {"champion": "1"}
        assert not client.get_model_version("digits", "2").tags

    def test_a_worse_challenger_is_refused_by_the_command_with_exit_4(
        self, settings: dict[str, Any], client: MlflowClient, tmp_path: Path, run_cli: RunCli
    ) -> None:
        client.set_registered_model_alias("digits", "champion", "2")
        (tmp_path / "job.yaml").write_text(json.dumps(settings))
        arguments = ("promote", tmp_path / "job.yaml", "--challenger", "models:/digits/1", "--rows", "300")
        code, out, err = run_cli(*arguments, "--json")
        assert code == 4, err
        assert json.loads(out)["status"] == "refused"
        code, out, err = run_cli(*arguments)
        assert (code, "stays at version 2" in out, "FAILS" in out) == (4, True, True), err
        assert aliases(client) == {"champion": "2"}


class TestRules:
    def test_what_a_comparison_does_not_tell_does_not_hold(self, job: Job, compared: CompareRecord) -> None:
        when = {**NOT_WORSE, "slices": {"not_worse_by": 1}}
        bare = replace(compared, difference=None, slices=())
        record = promotion.promote_compared(job(promote={"when": when}), bare, dry_run=True)
        assert [one.holds for one in record.clauses] == [False, False]
        assert "no labels" in record.clauses[0].found
        assert "--by COLUMN" in record.clauses[1].found

    def test_the_limit_itself_is_a_loss(self, job: Job, compared: CompareRecord) -> None:
        assert compared.difference is not None
        at = {"difference": {"better_by": compared.difference.low}}
        below = {"difference": {"better_by": float(np.nextafter(compared.difference.low, -1))}}
        found = [promotion.promote_compared(job(promote={"when": w}), compared, dry_run=True) for w in (at, below)]
        assert [record.status for record in found] == ["refused", "would promote"]

    def test_a_price_is_compared(self, job: Job, compared: CompareRecord) -> None:
        champion = replace(compared.champion, cost_per_million_rows=2.0)
        priced = replace(
            compared, champion=champion, challenger=replace(compared.challenger, cost_per_million_rows=2.5)
        )
        found = [
            promotion.promote_compared(job(promote={"when": {"cost": {"at_most": most}}}), priced, dry_run=True).status
            for most in (1.25, 1.24)
        ]
        assert found == ["would promote", "refused"]


class TestMovedMeanwhile:
    def test_an_alias_that_somebody_moved_after_the_comparison_is_not_overwritten(
        self, job: Job, client: MlflowClient, compared: CompareRecord
    ) -> None:
        client.set_registered_model_alias("digits", "champion", "3")
        with pytest.raises(AliasMovedError, match=r"is at version 3, not at 1.*somebody moved it") as caught:
            promotion.promote_compared(job(), compared)
        assert caught.value.exit_code == 5
        assert aliases(client) == {"champion": "3"}
        assert not client.get_model_version("digits", "2").tags

    def test_nor_is_one_that_moves_while_both_are_compared(self, job: Job, client: MlflowClient) -> None:
        def say(line: str) -> None:
            client.set_registered_model_alias("digits", "champion", "3")

        with pytest.raises(AliasMovedError):
            promotion.promote(job(), "models:/digits@candidate", rows=None, say=say)
        assert aliases(client) == {"champion": "3"}

    def test_a_version_that_was_registered_anew_is_another_model(
        self, job: Job, client: MlflowClient, compared: CompareRecord, seen: Seen
    ) -> None:
        client.delete_registered_model("digits")
        client.create_registered_model("digits")
        for _ in range(2):
            client.create_model_version("digits", (seen.file.parent / "good" / "onnx").as_uri())
        client.set_registered_model_alias("digits", "champion", "1")
        with pytest.raises(ConfigError, match="registered anew since"):
            promotion.promote_compared(job(), compared)


class TestRollback:
    def test_is_refused_where_nothing_was_promoted(self, job: Job) -> None:
        with pytest.raises(ConfigError, match=r"no alias 'previous'; .*valid: candidate, champion"):
            promotion.roll_back(job())

    def test_happens_once(self, job: Job, client: MlflowClient, compared: CompareRecord) -> None:
        promotion.promote_compared(job(), compared)
        assert promotion.roll_back(job(), dry_run=True).status == "would roll back"
        assert aliases(client)["champion"] == "2"
        assert promotion.roll_back(job()).status == "rolled back"
        assert aliases(client) == {"champion": "1"}
        version = client.get_model_version("digits", "2")
        assert version.tags["optinfer.champion.rolled_back_to"] == "1"
        assert (version.description or "").count("optinfer: champion") == 1
        assert "rolled back to version 1" in (version.description or "")
        with pytest.raises(ConfigError, match="no alias 'previous'"):
            promotion.roll_back(job())

    def test_keeps_the_version_from_coming_back_by_itself(
        self, job: Job, client: MlflowClient, compared: CompareRecord
    ) -> None:
        promotion.promote_compared(job(), compared)
        promotion.roll_back(job())
        record = promotion.promote_compared(job(), compared)
        assert (record.status, record.clauses[0].rule) == ("refused", "never rolled back")
        assert aliases(client) == {"champion": "1"}
        client.delete_model_version_tag("digits", "2", "optinfer.champion.rolled_back")
        assert promotion.promote_compared(job(), compared).status == "promoted"

    def test_leaves_what_somebody_set_after_the_promotion(
        self, job: Job, client: MlflowClient, compared: CompareRecord
    ) -> None:
        promotion.promote_compared(job(), compared)
        client.set_registered_model_alias("digits", "champion", "3")
        with pytest.raises(ConfigError, match="nothing promoted version 3"):
            promotion.roll_back(job())
        assert aliases(client) == {"champion": "3", "previous": "1"}


class TestRefused:
    def test_an_alias_that_does_not_exist(self, job: Job, compared: CompareRecord) -> None:
        other = {"alias": "champoin", "when": NOT_WORSE}
        with pytest.raises(ConfigError, match="no alias 'champoin'; did you mean 'champion'"):
            promotion.promote_compared(job(promote=other), compared)

    def test_a_job_without_a_rule(self, job: Job, compared: CompareRecord) -> None:
        with pytest.raises(ConfigError, match=r"promote.when names no rule"):
            promotion.promote_compared(job(promote={}), compared)

    def test_a_comparison_of_another_job(self, job: Job, compared: CompareRecord) -> None:
        with pytest.raises(ConfigError, match="is of the job other"):
            promotion.promote_compared(job(), replace(compared, job="other"))

    def test_a_comparison_with_what_is_no_version(self, job: Job, seen: Seen) -> None:
        record = compare(job(), str(seen.digits.folder / "good.onnx"), rows=100)
        with pytest.raises(ConfigError, match="challenger is no version of a registered model"):
            promotion.promote_compared(job(), record)

    def test_a_comparison_of_another_model(self, job: Job, compared: CompareRecord) -> None:
        assert compared.champion.version is not None
        other = replace(compared.champion, version=replace(compared.champion.version, name="letters"))
        with pytest.raises(ConfigError, match="champion is models:/letters/1"):
            promotion.promote_compared(job(), replace(compared, champion=other))

    def test_a_challenger_that_is_no_version(self, job: Job) -> None:
        with pytest.raises(ConfigError, match="no version of the registered model digits"):
            promotion.promote(job(), "onnx-int8-qdq")

    def test_a_model_in_no_registry(self, job: Job, seen: Seen, tmp_path: Path) -> None:
        here = {"path": str(seen.digits.folder / "good.onnx"), "family": "tensor"}
        with pytest.raises(ConfigError, match="is no registered model"):
            promotion.roll_back(job(model=here, sink={"path": str(tmp_path / "out")}))

    def test_a_version_in_the_path_of_a_model_that_has_none(self, job: Job, seen: Seen) -> None:
        here = {"path": str(seen.digits.folder / "good.onnx"), "family": "tensor"}
        with pytest.raises(ConfigError, match=r"{model_version}.*no version of a registered model"):
            job(model=here)

    @pytest.mark.parametrize("text", ["", "[]", '{"status": "failed"}', '{"run_id": 1'])
    def test_a_file_that_holds_no_comparison(self, job: Job, tmp_path: Path, text: str) -> None:
        (tmp_path / "record.json").write_text(text)
        with pytest.raises(ConfigError, match="holds no comparison"):
            promotion.read_comparison(str(tmp_path / "record.json"), job())


def test_a_version_that_makes_the_sink_the_source_is_refused(job: Job, seen: Seen, tmp_path: Path) -> None:
    (tmp_path / "in" / "1").mkdir(parents=True)
    shutil.copy(seen.digits.table, tmp_path / "in" / "1" / "t.parquet")
    source = {"path": str(tmp_path / "in" / "1"), "columns": {"X": "X"}}
    with pytest.raises(ConfigError, match=r"sink.path .* is source.path itself"):
        ran(job(source=source, sink={"path": str(tmp_path / "in" / "{model_version}"), "columns": ["id"]}))


def test_status_finds_the_output_of_the_version_that_the_alias_is_at(
    settings: dict[str, Any], job: Job, tmp_path: Path, run_cli: RunCli
) -> None:
    ran(job())
    (tmp_path / "job.yaml").write_text(json.dumps(settings))
    code, out, err = run_cli("status", tmp_path / "job.yaml", "--json")
    assert code == 0, err
    assert json.loads(out)["output"] == str(tmp_path / "out" / "1")


def test_a_server_takes_a_promotion_and_its_rollback(
    tmp_path: Path, seen: Seen, settings: dict[str, Any], run_cli: RunCli
) -> None:
    import mlflow
    import onnx

    with mlflow_server(tmp_path, *free_ports(1)) as server:
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(server.url)
        try:
            for name in ("poor", "good"):
                model = onnx.load(seen.digits.folder / f"{name}.onnx")
                with mlflow.start_run():
                    mlflow.onnx.log_model(model, name="model", registered_model_name="digits", pip_requirements=[])
        finally:
            mlflow.set_tracking_uri(before)
        client = MlflowClient(tracking_uri=server.url)
        client.set_registered_model_alias("digits", "champion", "1")
        there = {**settings, "tracking": {"experiment": "promoted", "uri": server.url}}
        (tmp_path / "job.yaml").write_text(json.dumps(there))
        config = parse_job(there)
        assert ran(config).output.endswith("/1")
        code, out, err = run_cli("promote", tmp_path / "job.yaml", "--challenger", "models:/digits/2", "--json")
        assert code == 0, err
        assert json.loads(out)["status"] == "promoted"
        assert aliases(client) == {"champion": "2", "previous": "1"}
        assert ran(config).output.endswith("/2")
        code, out, err = run_cli("promote", tmp_path / "job.yaml", "--rollback")
        assert (code, "moved back from version 2 to 1" in out) == (0, True), err
        assert ran(config).status == "nothing to do"
