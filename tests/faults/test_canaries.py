"""A whole job whose artifact is damaged after it was certified: its replicas say so, and the next variant scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import optinfer
from optinfer.config import JobConfig
from optinfer.errors import LoadError
from optinfer.execution.in_process import InProcess
from optinfer.execution.on_ray import OnRay
from optinfer.system import home
from optinfer.system.contents import listed
from tests.conftest import MakeJob
from tests.inference.test_canaries import NUMBERS, flip, tensor_model

pytestmark = pytest.mark.usefixtures("trials_here")


class _Damaged:
    """Something happens to the files of what was certified before replicas start."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__()
        self._happens = happens

    def stream(self, *arguments: Any) -> Any:
        self._happens()
        return super().stream(*arguments)  # type: ignore[misc]


class DamagedInProcess(_Damaged, InProcess): ...


class DamagedOnRay(_Damaged, OnRay): ...


@pytest.fixture
def job(tmp_path: Path, make_job: MakeJob) -> Callable[..., JobConfig]:
    """Return a function that makes a job of a model of numbers, in int8."""
    tensor_model(tmp_path / "model")
    columns = {"id": [str(i) for i in range(len(NUMBERS))], "x": pa.array(NUMBERS.tolist(), pa.list_(pa.float32()))}
    pq.write_table(pa.table(columns), tmp_path / "table.parquet")

    def make(sink: Path, **changes: Any) -> JobConfig:
        given: dict[str, Any] = {
            "source__columns": {"x": "x"},
            "model": {"path": str(tmp_path / "model" / "model.onnx"), "family": "tensor"},
            "variant": "onnx-int8-qdq",
            "gate": {"min": 0.9, "sample_rows": 8},
        }
        return make_job(tmp_path / "table.parquet", sink, **{**given, **changes})

    return make


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a cache of its own to damage."""
    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def built() -> Path:
    """Return the file with the weights of the int8 artifact."""
    (found,) = home.artifacts().glob("*/model.onnx.data")
    return found


@pytest.mark.usefixtures("own_home")
def test_a_byte_flipped_after_the_proof_ends_the_variant_and_the_next_one_scores(
    job: Callable[..., JobConfig], sink: Path
) -> None:
    said: list[str] = []
    config = job(sink, gate={"min": 0.9, "sample_rows": 8, "fallback": "onnx-fp32"})
    record = optinfer.run(config, executor=DamagedInProcess(lambda: flip(built(), -1)), say=said.append)
    assert (record.variant, record.rows_out) == ("onnx-fp32", len(NUMBERS))
    why = json.loads((sink / "_manifest.json").read_text())["variants_not_chosen"]["onnx-int8-qdq"]
    assert "model.onnx.data is not the file that was certified" in why
    assert any("onnx-int8-qdq does not score: a replica cannot load it: node " in line for line in said)


@pytest.mark.slow
@pytest.mark.usefixtures("own_home", "shared_ray")
class TestOnRay:
    def test_a_byte_flipped_after_the_proof_is_refused_with_node_variant_file_and_fix(
        self, job: Callable[..., JobConfig], sink: Path
    ) -> None:
        with pytest.raises(LoadError) as caught:
            optinfer.run(job(sink), executor=DamagedOnRay(lambda: flip(built(), -1)))
        assert caught.value.exit_code == 4
        said = str(caught.value)
        assert "does not score with onnx-int8-qdq" in said
        assert f"{built()} is not the file that was certified" in said
        assert f"copy {built().parent} anew" in said
        assert not list(sink.glob("part-*"))

    def test_a_tensor_changed_by_a_percent_is_caught_by_the_canary_where_the_files_are_believed(
        self, job: Callable[..., JobConfig], sink: Path, tmp_path: Path
    ) -> None:
        """Damaged before its files were noted, say: the kept certificate has the digests of the damaged ones."""
        first = optinfer.run(job(tmp_path / "before"), executor=InProcess())
        certificate = home.home() / "certificates" / first.certificate.artifact / f"{first.certificate.sample}.json"

        def damage() -> None:
            scale_by_a_percent(built().with_name("model.onnx"))
            home.note_files(built().parent, listed(built().parent))
            kept = json.loads(certificate.read_text())
            kept["canaries"]["files"] = digests(built().parent, kept["canaries"]["files"])
            certificate.write_text(json.dumps(kept))

        damage()
        with pytest.raises(LoadError, match=r"its answer to the canary 0 .* 'y' differs by .* is allowed"):
            optinfer.run(job(sink), executor=OnRay())
        assert not list(sink.glob("part-*"))


def scale_by_a_percent(file: Path) -> None:
    """Change the scales of the weights of one matrix, and no file's size."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(file, load_external_data=False)
    (scale,) = [t for t in model.graph.initializer if "w1" in t.name and t.name.endswith("scale")]
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.01), scale.name))
    file.write_bytes(model.SerializeToString())


def digests(folder: Path, kept: dict[str, str]) -> dict[str, str]:
    own = {
        name: hashlib.sha256((folder / name.removeprefix("artifact/")).read_bytes())
        for name in kept
        if name.startswith("artifact/")
    }
    return {**kept, **{name: found.hexdigest() for name, found in own.items()}}
