"""A variant scores only after its proof: certificates on the job's rows, fallback by name, a clear no otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from optinfer.commands.resolved import resolve
from optinfer.errors import GateError, UnavailableError
from optinfer.models.source import digest
from optinfer.optimization.pools import Pools
from optinfer.optimization.selection import Prepared, candidates
from optinfer.optimization.variants import VARIANTS, Step, Variant, require
from tests.conftest import MakeJob, WriteTable, located

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("trials_here")]


@pytest.fixture
def prove(tmp_path: Path, make_job: MakeJob, write_table: WriteTable) -> Any:
    """Return a function from a variant and changes to what `prepare` says, and the lines it reported."""
    table = write_table(tmp_path / "t.parquet", rows=48)

    def run(variant: str, **changes: Any) -> tuple[Prepared, list[str]]:
        settings = {"gate__sample_rows": 16, "gate__min": 0.98, "variant": variant, **changes}
        job = make_job(table, tmp_path / "out", **settings)
        planned = resolve(job)
        lines: list[str] = []
        bench = planned.bench(lines.append)
        return next(candidates(bench)), lines

    return run


def test_dynamic_int8_is_certified_to_depend_on_its_batch_and_static_int8_is_not(prove: Any) -> None:
    dynamic, _ = prove("onnx-int8-dynamic")
    static, _ = prove("onnx-int8-qdq")
    assert not dynamic.certificate.batch_invariant
    assert "not batch-invariant" in Pools((dynamic,)).warnings[0]
    assert static.certificate.batch_invariant
    assert Pools((static,)).warnings == []
    assert dynamic.certificate.executed["precisions"]["int8"] > 0
    assert static.certificate.executed["precisions"]["int8"] > 0


def test_another_setting_of_the_family_is_another_artifact(
    make_job: MakeJob, write_table: WriteTable, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "t.parquet", rows=48)

    def key(**settings: Any) -> str:
        planned = resolve(make_job(table, tmp_path / "out", variant="torch-fp32", **settings))
        return planned.bench(print).model.key

    assert key() == key()
    assert key(model__max_length=16) != key(model__max_length=32)


def test_a_certificate_is_measured_once(prove: Any) -> None:
    first, _ = prove("onnx-fp32")
    second, lines = prove("onnx-fp32")
    assert second.certificate == first.certificate
    assert lines == []
    assert first.certificate.fidelity.value == pytest.approx(1.0, abs=1e-5)


def test_two_backends_on_one_artifact_have_a_certificate_each(prove: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "fake", Variant(name="fake", backend="fake", about=""))
    fake, _ = prove("fake", gate__min=-1.0)
    real, _ = prove("torch-fp32")
    assert fake.artifact.key == real.artifact.key
    assert fake.certificate.executed["backend"] == "fake"
    assert real.certificate.fidelity.value == pytest.approx(1.0)


def test_a_variant_below_the_gate_scores_nothing(prove: Any) -> None:
    with pytest.raises(GateError, match=r"onnx-int8-dynamic: cosine .* below gate\.min 1\n"):
        prove("onnx-int8-dynamic", gate__min=1.0)


def test_the_named_fallback_takes_over_and_says_so(prove: Any) -> None:
    changes = {"gate__require_batch_invariance": True, "gate__fallback": "onnx-fp32"}
    prepared, _ = prove("onnx-int8-dynamic", **changes)
    assert prepared.variant.name == "onnx-fp32"
    assert prepared.not_chosen[0][0] == "onnx-int8-dynamic"
    assert "depend on a row's neighbours" in prepared.not_chosen[0][1]


def test_auto_takes_the_fastest_that_passes_and_never_one_that_depends_on_its_batch(
    prove: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = ("torch-fp32", "onnx-fp32", "onnx-int8-dynamic")
    broken = Variant(name="broken", steps=(Step("cast", {"dtype": "no_such_type"}),), backend="torch", about="")
    for name in [n for n in VARIANTS if n not in candidates]:
        monkeypatch.delitem(VARIANTS, name)
    monkeypatch.setitem(VARIANTS, "broken", broken)
    prepared, _ = prove("auto")
    others = dict(prepared.not_chosen)
    assert prepared.variant.name in ("torch-fp32", "onnx-fp32")
    assert "depend on a row's neighbours" in others["onnx-int8-dynamic"]
    assert others["broken"].startswith("could not be probed")
    assert len(others) == 3
    slower = ({"torch-fp32", "onnx-fp32"} - {prepared.variant.name}).pop()
    assert others[slower].startswith("slower")
    allowed, _ = prove("auto", gate__require_batch_invariance=False)
    told = {allowed.variant.name: "chosen", **dict(allowed.not_chosen)}
    assert told["onnx-int8-dynamic"].startswith(("chosen", "slower")), "the job allows it"


def test_auto_tries_nothing_more_once_its_time_is_spent(prove: Any) -> None:
    prepared, _ = prove("auto", selection={"time_budget": 1e-9})
    assert prepared.variant.name == "torch-fp32"
    assert dict(prepared.not_chosen)["onnx-fp32"] == "not tried: selection.time_budget was spent"


def test_a_variant_whose_library_is_missing_is_refused_with_the_fix() -> None:
    with pytest.raises(UnavailableError, match="pip install no-such-runtime"):
        require("gone", {"gone": Variant(name="gone", backend="absent", about="")})


def test_a_device_the_backend_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "x", Variant(name="x", backend="openvino", device="cuda", about=""))
    with pytest.raises(UnavailableError, match="runs on cpu, not cuda"):
        require("x")


def test_another_model_content_is_another_digest(tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "model"
    shutil.copytree(located().path, copy)
    same = digest(copy)
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert same == located().key
    assert digest(copy) != same
