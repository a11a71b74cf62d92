"""A replica proves itself when it loads: the node, the files and the answers are those of the certificate, or it scores nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optinfer.errors import LoadError
from optinfer.execution.loading import Loading
from optinfer.families import Features
from optinfer.inference.canaries import contents, require_proved
from optinfer.inference.isolation import IsolatedReplica
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.models.artifact import Artifact
from optinfer.optimization import kept
from optinfer.optimization.baseline import answers_here
from optinfer.optimization.certificate import Certificate, Exam
from optinfer.optimization.trial import certify_here
from optinfer.records.canary import Canaries, Ground
from optinfer.records.record import decoded
from optinfer.system import home
from optinfer.system.machine import VNNI, cpu_features
from tests.conftest import MODEL, located
from tests.optimization.test_onnx_techniques import changed, saved
from tests.other_nodes import cpu_without, score_there, with_package

WIDTH = 32
NUMBERS = np.random.default_rng(1).normal(size=(24, WIDTH)).astype(np.float32)
TABLE = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(NUMBERS.reshape(-1)), WIDTH)})


def certified(settings: ReplicaSettings, rows: pa.Table, key: str) -> tuple[ReplicaSettings, Certificate]:
    """Certify a variant on rows, and return its replicas' settings as a job gives them out."""
    baseline = answers_here(settings, rows, lambda line: None)
    certificate = certify_here(settings.variant, settings, Exam(rows, None, baseline, "cosine", key))
    return replace(settings, canaries=certificate.canaries), kept.put(certificate, settings)


def tensor_model(folder: Path) -> Artifact:
    """Return a model of two matrices."""
    draw = np.random.default_rng(0)
    first, second = (draw.normal(size=size).astype(np.float32) / 8 for size in ((WIDTH, 64), (64, WIDTH)))
    nodes = [("MatMul", ["x", "w1"], ["a"]), ("Relu", ["a"], ["b"]), ("MatMul", ["b", "w2"], ["y"])]
    return saved(folder, nodes, {"w1": first, "w2": second}, ["batch", WIDTH], ["batch", WIDTH])


def replica_of(artifact: Artifact, model: Artifact, variant: str) -> ReplicaSettings:
    return ReplicaSettings(family="tensor", model=model, backend="onnxruntime", artifact=artifact, variant=variant)


@pytest.fixture
def fp32(tmp_path: Path) -> ReplicaSettings:
    """Return a certified ONNX model in fp32."""
    tensor_model(tmp_path / "model")
    model = located(tmp_path / "model" / "model.onnx", family="tensor")
    return certified(replica_of(model, model, "onnx-fp32"), TABLE, tmp_path.name)[0]


@pytest.fixture
def int8(tmp_path: Path) -> ReplicaSettings:
    """Return the same in int8, with the range of weights that suits this CPU."""
    tensor_model(tmp_path / "source")
    model = located(tmp_path / "source" / "model.onnx", family="tensor")
    change = changed("onnx_int8_qdq", model, tmp_path / "int8", rows=NUMBERS)
    made = Artifact(
        path=str(tmp_path / "int8"), entry="model.onnx", format="onnx", precision=change.precision, key="int8",
        load_options=change.load_options,
    )  # fmt: skip
    return certified(replica_of(made, model, "onnx-int8-qdq"), TABLE, tmp_path.name)[0]


def canaries_of(settings: ReplicaSettings) -> Canaries:
    assert settings.canaries is not None
    return settings.canaries


def refused(settings: ReplicaSettings, here: Ground | None = None) -> str:
    """Return what a replica says that does not score."""
    with pytest.raises(LoadError) as caught:
        require_proved(settings, Replica, here)
    return str(caught.value)


def test_a_certificate_keeps_an_ordinary_an_extreme_and_an_outlying_row_with_the_variants_own_answers(
    fp32: ReplicaSettings,
) -> None:
    canaries = canaries_of(fp32)
    assert 1 < len(canaries.kinds) <= 3
    assert set(canaries.kinds) <= {"ordinary", "largest", "outlier"}
    assert canaries.table.schema == TABLE.schema
    alone = Replica(fp32).score(canaries.table).outputs
    for name, values in canaries.outputs.items():
        np.testing.assert_allclose(alone[name], values, atol=canaries.tolerance)
    assert canaries.ground.cpu_features == tuple(cpu_features())
    assert list(canaries.ground.runtime) == ["onnxruntime"]


def test_a_replica_that_answers_as_it_did_scores(fp32: ReplicaSettings, int8: ReplicaSettings) -> None:
    for settings in (fp32, int8):
        assert len(Loading(Replica, settings).engine.score(TABLE).kept) == len(NUMBERS)


class TestNode:
    """Another CPU, another version: told to a process of its own by the kernel, or by what is installed there."""

    @pytest.mark.skipif(not set(VNNI) & set(cpu_features()), reason="this CPU has no VNNI that could be taken away")
    def test_int8_made_where_vnni_is_does_not_run_where_it_is_not(self, int8: ReplicaSettings, tmp_path: Path) -> None:
        said = score_there(tmp_path, int8, TABLE, before=cpu_without(tmp_path, *VNNI))
        assert said["error"] == "UnfitNodeError"
        assert "does not score with onnx-int8-qdq: it was certified on a CPU with a" in said["message"]
        assert "this one has none: its int8 answers differ" in said["message"]
        assert "placement.resources" in said["message"]

    def test_nor_where_it_is_if_it_was_made_where_it_is_not(self, int8: ReplicaSettings) -> None:
        ground = canaries_of(int8).ground
        without = replace(ground, cpu_features=tuple(set(ground.cpu_features) - set(VNNI)))
        made_there = replace(int8, canaries=replace(canaries_of(int8), ground=without))
        with_it = replace(ground, cpu_features=("avx2", "avx_vnni"))
        said = refused(made_there, here=with_it)
        assert "certified on a CPU with none of the instructions for sums of 8-bit products" in said
        assert "this one has avx_vnni" in said

    def test_other_instructions_of_the_same_kind_are_no_difference(self, int8: ReplicaSettings) -> None:
        ground = canaries_of(int8).ground
        made = replace(int8, canaries=replace(canaries_of(int8), ground=replace(ground, cpu_features=("avx512_vnni",))))
        require_proved(made, Replica, replace(ground, cpu_features=("avx2", "avx_vnni")))

    def test_fp32_runs_on_any_cpu_that_answers_alike(self, fp32: ReplicaSettings, tmp_path: Path) -> None:
        before = cpu_without(tmp_path, *VNNI, "avx512_bf16", "amx_bf16", "avx512f")
        assert "outputs" in score_there(tmp_path, fp32, TABLE, before=before)

    def test_a_runtime_of_another_version_is_refused(self, fp32: ReplicaSettings, tmp_path: Path) -> None:
        elsewhere = with_package(tmp_path / "site", "onnxruntime", "1.2.3")
        said = score_there(tmp_path, fp32, TABLE, environment=elsewhere)
        version = canaries_of(fp32).ground.runtime["onnxruntime"]
        assert said["error"] == "UnfitNodeError"
        assert f"certified with onnxruntime {version}, here is 1.2.3; install onnxruntime=={version}" in said["message"]

    def test_a_model_that_computes_in_bf16_needs_it_on_both_sides(self, fp32: ReplicaSettings) -> None:
        ground = replace(canaries_of(fp32).ground, cpu_features=("avx512_bf16",))
        narrow = replace(fp32, canaries=replace(canaries_of(fp32), precisions=("int8", "bf16"), ground=ground))
        said = refused(narrow, here=replace(ground, cpu_features=("avx2",)))
        assert "avx512_bf16 of the instructions for bf16, this one has none" in said


class TestFiles:
    """A copy that differs by a byte, and answers that differ by a percent of one tensor."""

    def test_a_flipped_byte_is_refused_by_the_files_name(self, int8: ReplicaSettings) -> None:
        (weights,) = Path(int8.artifact.path).glob("*.data")
        flip(weights, -1)
        said = refused(int8)
        assert f"{weights} is not the file that was certified" in said
        assert "this copy is damaged" in said

    def test_a_file_that_is_missing_is_refused_by_name(self, int8: ReplicaSettings) -> None:
        (weights,) = Path(int8.artifact.path).glob("*.data")
        weights.unlink()
        assert "artifact/model.onnx.data is not the file that was certified" in refused(int8)

    @pytest.mark.parametrize("tensor", ["w1", "w2"])
    def test_the_canary_catches_a_tensor_of_an_onnx_file_changed_by_a_percent(
        self, fp32: ReplicaSettings, tensor: str
    ) -> None:
        import onnx
        from onnx import numpy_helper

        model = onnx.load(fp32.artifact.file)
        for weight in model.graph.initializer:
            if weight.name == tensor:
                weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), tensor))
        onnx.save(model, fp32.artifact.file)
        assert "is not the file that was certified" in refused(fp32)
        said = refused(believed(fp32))
        assert "its answer to the canary 0 (ordinary) is not the one that was certified: 'y' differs by" in said
        assert "is allowed" in said

    def test_new_files_beside_them_are_nobodys_business(self, int8: ReplicaSettings) -> None:
        Path(int8.artifact.path, "notes.txt").write_text("mine")
        require_proved(int8, Replica)


class TestRealModel:
    """MiniLM, as it is shipped."""

    @pytest.fixture(scope="class")
    def real(self, tmp_path_factory: pytest.TempPathFactory, sample_table: Path) -> ReplicaSettings:
        folder = tmp_path_factory.mktemp("real") / "model"
        shutil.copytree(located(MODEL).path, folder, ignore=shutil.ignore_patterns("__pycache__"))
        model = located(folder)
        rows = pq.read_table(sample_table).select(["text"]).slice(0, 32)
        settings = ReplicaSettings(
            family="text-embedding", model=model, backend="torch", artifact=model, variant="torch-fp32"
        )
        return certified(settings, rows, folder.parent.name)[0]

    def test_its_canaries_are_an_ordinary_row_the_longest_and_an_outlier(self, real: ReplicaSettings) -> None:
        canaries = canaries_of(real)
        assert canaries.kinds[:2] == ("ordinary", "longest")
        lengths = self.lengths(real, canaries.table)
        assert lengths[1] == max(lengths)
        require_proved(real, Replica)

    # Of all its matrices, the one that moves the answers least, and the one that moves them most.
    @pytest.mark.parametrize(
        "tensor", ["encoder.layer.0.attention.self.key.weight", "encoder.layer.0.intermediate.dense.weight"]
    )
    def test_the_canary_catches_a_tensor_changed_by_a_percent(self, real: ReplicaSettings, tensor: str) -> None:
        from safetensors.numpy import load_file, save_file

        (file,) = Path(real.artifact.path).glob("*.safetensors")
        whole = file.read_bytes()
        try:
            tensors = load_file(file)
            (name,) = [n for n in tensors if n.endswith(tensor)]
            save_file({**tensors, name: tensors[name] * np.float32(1.01)}, file, metadata={"format": "pt"})
            assert f"{file} is not the file that was certified" in refused(real)
            said = refused(believed(real))
            assert "does not score with torch-fp32: its answer to the canary" in said
            assert "'sentence_embedding' differs by" in said
        finally:
            file.write_bytes(whole)
        require_proved(real, Replica)

    def lengths(self, real: ReplicaSettings, rows: pa.Table) -> list[int]:
        features: Features = Replica(real).family.preprocess(rows)
        assert features.lengths is not None
        return [int(length) for length in features.lengths]


def test_a_replica_in_a_process_of_its_own_proves_itself_too(int8: ReplicaSettings) -> None:
    with IsolatedReplica(int8) as isolated:
        assert len(isolated.score(TABLE).kept) == len(NUMBERS)
    flip(int8.artifact.file, -1)
    with IsolatedReplica(int8) as isolated, pytest.raises(LoadError, match="is not the file that was certified"):
        isolated.score(TABLE)


def test_a_label_has_to_be_the_same_whatever_the_numbers_tolerance(fp32: ReplicaSettings) -> None:
    from optinfer.inference.canaries import differs

    lenient = replace(canaries_of(fp32), tolerance=10.0)
    certified_row = {"score": np.array([[0.5]]), "label": np.array([[3]]), "name": np.array([["cat"]])}
    assert not differs(certified_row, {**certified_row, "score": np.array([[0.6]])}, lenient)
    assert differs(certified_row, {**certified_row, "label": np.array([[4]])}, lenient) == "'label' is [4], not [3]"
    assert "'dog'" in differs(certified_row, {**certified_row, "name": np.array([["dog"]])}, lenient)
    assert "differs by nan" in differs(certified_row, {**certified_row, "score": np.array([[np.nan]])}, lenient)
    assert "there is none of 'label'" in differs(certified_row, {"score": np.array([[0.5]])}, lenient)
    wide = {**certified_row, "score": np.zeros((1, 2))}
    assert "'score' has (2,) numbers, not (1,)" in differs(certified_row, wide, lenient)


def test_rows_too_large_to_travel_are_left_out_and_the_smallest_stands_for_all(tmp_path: Path) -> None:
    tensor_model(tmp_path / "model")
    model = located(tmp_path / "model" / "model.onnx", family="tensor")
    padding = pa.array([np.random.default_rng(i).bytes(100_000 + i) for i in range(len(NUMBERS))])
    settings, _ = certified(replica_of(model, model, "v"), TABLE.append_column("weight", padding), tmp_path.name)
    assert canaries_of(settings).kinds == ("smallest",)
    require_proved(settings, Replica)


class TestKept:
    """What a certificate's file holds, and what others read of it."""

    def test_a_kept_certificate_is_read_back_whole(self, fp32: ReplicaSettings, tmp_path: Path) -> None:
        found = kept.read(fp32, tmp_path.name)
        assert found is not None
        assert found.canaries == fp32.canaries

    def test_one_of_before_is_measured_again(
        self, fp32: ReplicaSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.rewrite(fp32, tmp_path, lambda stored: stored.pop("canaries"))
        assert kept.read(fp32, tmp_path.name) is None
        assert not caplog.text, "it is no damage"

    @pytest.mark.parametrize("damage", [{"rows": "AAAA"}, {"answers": "!"}, {"kinds": []}])
    def test_one_whose_canaries_are_damaged_is_measured_again(
        self, fp32: ReplicaSettings, tmp_path: Path, damage: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        self.rewrite(fp32, tmp_path, lambda stored: stored["canaries"].update(damage))
        assert kept.read(fp32, tmp_path.name) is None
        assert "is damaged" in caplog.text

    def test_records_and_trackers_are_told_of_them_but_not_the_rows(
        self, fp32: ReplicaSettings, tmp_path: Path
    ) -> None:
        found = kept.read(fp32, tmp_path.name)
        assert found is not None
        told = json.loads(json.dumps(found.as_dict()))["canaries"]
        assert {"rows", "answers"}.isdisjoint(told)
        assert told["ground"]["runtime"] == canaries_of(fp32).ground.runtime

    def rewrite(self, settings: ReplicaSettings, folder: Path, change: Callable[[Any], object]) -> None:
        file = home.home() / "certificates" / settings.artifact.key / f"{folder.name}.json"
        stored = json.loads(file.read_text())
        assert decoded(Canaries, stored["canaries"]) == canaries_of(settings)
        change(stored)
        file.write_text(json.dumps(stored))


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def believed(settings: ReplicaSettings) -> ReplicaSettings:
    """Return the settings of a replica that takes the files as they are now for those that were certified."""
    return replace(settings, canaries=replace(canaries_of(settings), files=contents(settings)))
