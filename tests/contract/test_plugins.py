"""Every family, backend and technique found in its folder keeps the contract its folder's `__init__` states."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from optinfer.backends import BACKENDS, Backend
from optinfer.data.sinks import SINKS
from optinfer.data.sources import SOURCES
from optinfer.deployment.targets import TARGETS
from optinfer.errors import ConfigError
from optinfer.families import FAMILIES, FamilySettings
from optinfer.inference.preparing import prepare
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.models.artifact import Artifact
from optinfer.optimization import build
from optinfer.optimization.certificate import mismatch
from optinfer.optimization.techniques import TECHNIQUES, BuildContext
from optinfer.optimization.variants import VARIANTS, Step, Variant
from optinfer.plugins import Kind
from tests.contract.models import CASES, Case

HEAVY = ("ray", "torch", "mlflow", "onnxruntime", "openvino", "nncf", "transformers", "onnx")
KINDS: dict[str, Kind[Any]] = {
    "backends": BACKENDS, "techniques": TECHNIQUES, "families": FAMILIES, "sources": SOURCES, "sinks": SINKS,
    "targets": TARGETS,
}  # fmt: skip
OWN = {
    plural: [file.stem for file in sorted(Path(next(iter(import_module(kind.room).__path__))).glob("[!_]*.py"))]
    for plural, kind in KINDS.items()
}


@pytest.mark.parametrize("plural", KINDS)
def test_listing_and_importing_plugins_imports_nothing_heavy(plural: str) -> None:
    module = KINDS[plural].room
    code = (
        f"import sys\nfrom {module} import {plural.upper()} as kind\n"
        f"for name in {OWN[plural]}: kind.get(name)\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("plural", KINDS)
def test_every_file_is_a_plugin_and_third_parties_come_by_entry_point(plural: str) -> None:
    names = KINDS[plural].names()
    assert {name.replace("_", "-") for name in OWN[plural]} <= set(names)
    assert ("faulty" in names) == (plural == "backends")
    for name in names:
        assert KINDS[plural].get(name)


def test_a_module_without_the_object_is_refused_with_the_way_to_write_one() -> None:
    kind = Kind("backend", "backends", "optinfer.inference", Backend)
    with pytest.raises(
        ConfigError, match=r"the backend memory .* has no `backend = Backend\(\.\.\.\)`; see \"how to add a"
    ):
        kind.get("memory")


@pytest.mark.parametrize("name", OWN["backends"])
def test_a_backend_states_what_it_needs(name: str) -> None:
    backend = BACKENDS.get(name)
    assert backend.formats
    assert set(backend.max_batch_tokens) == set(backend.devices)
    assert set(backend.devices) <= {"cpu", "cuda"}
    for device in backend.devices:
        reason = backend.unavailable(device)
        assert reason is None or ("fix" in reason or "run where" in reason)
    assert isinstance(backend.requires, tuple)


@pytest.mark.parametrize("name", OWN["techniques"])
def test_a_technique_states_what_it_needs(name: str) -> None:
    technique = TECHNIQUES.get(name)
    assert technique.inputs
    assert technique.output in {f for backend in OWN["backends"] for f in BACKENDS.get(backend).formats}
    assert isinstance(technique.defaults, dict)
    assert isinstance(technique.calibrates, bool)
    assert any(step.technique == name for v in VARIANTS.values() for step in v.steps), "no variant uses it"


@pytest.mark.parametrize("name", OWN["families"])
def test_a_family_states_what_it_needs(name: str) -> None:
    family = FAMILIES.get(name)
    assert issubclass(family.settings, FamilySettings)
    assert family.fragment_rows > 0


def test_an_unknown_plugin_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'onnxruntime'"):
        BACKENDS.get("onnxruntim")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    """Return a function from a family's name to its small model; each is made once."""
    return cache(lambda name: CASES[name](tmp_path_factory.mktemp(name)))


def context_of(case: Case) -> BuildContext:
    family = FAMILIES.get(case.family).load(case.model, case.settings)
    return BuildContext(family, prepare(family, case.table).features)


def replica_of(case: Case, backend: str, artifact: Artifact) -> Replica:
    """Load a replica from settings that travelled."""
    settings = ReplicaSettings(
        family=case.family,
        family_settings=case.settings,
        model=case.model,
        backend=backend,
        artifact=artifact,
        threads=2,
    )
    return Replica(pickle.loads(pickle.dumps(settings)))


def require_a_round_trip(replica: Replica, case: Case) -> None:
    """Rows in their order, twice the same, in columns of the stated types; the last row rejected with a reason."""
    first, second = replica.score(case.table), replica.score(case.table)
    last = case.table.num_rows - 1
    assert first.kept.tolist() == list(range(last))
    assert list(first.rejected) == [last]
    assert first.rejected[last]
    for name in replica.family.outputs:
        np.testing.assert_array_equal(first.outputs[name], second.outputs[name])
    table = first.added
    assert table.schema == replica.family.schema
    assert table.num_rows == last


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN["families"])
class TestFamily:
    def test_rows_make_a_round_trip(self, name: str, cases: Callable[[str], Case]) -> None:
        case = cases(name)
        replica = replica_of(case, case.backend, case.model)
        require_a_round_trip(replica, case)
        assert set(replica.family.roles) == set(case.table.column_names)
        assert replica.family.metrics

    def test_the_exported_model_answers_like_the_model_as_it_is(self, name: str, cases: Callable[[str], Case]) -> None:
        case = cases(name)
        exported = build.build(VARIANTS[case.exported], case.model, "contract", lambda: context_of(case))
        onnx = replica_of(case, "onnxruntime", exported).score(case.table)
        own = replica_of(case, case.backend, case.model).score(case.table)
        for output, values in own.outputs.items():
            np.testing.assert_allclose(onnx.outputs[output], values, atol=1e-4)

    def test_a_column_of_a_wrong_type_is_refused(self, name: str, cases: Callable[[str], Case]) -> None:
        case = cases(name)
        if case.wrong is None:
            pytest.skip("what a custom class takes, only the class knows")
        family = FAMILIES.get(name).load(case.model, case.settings)
        role = family.roles[0]
        with pytest.raises(ConfigError, match="column 'wrong' holds"):
            family.check(pa.schema([("wrong", case.wrong.type)]), {role: "wrong"})

    def test_a_table_where_no_row_can_be_scored_gives_no_rows(self, name: str, cases: Callable[[str], Case]) -> None:
        case = cases(name)
        replica = replica_of(case, case.backend, case.model)
        scored = replica.score(case.table.slice(case.table.num_rows - 1))
        assert scored.added.num_rows == 0
        assert scored.added.schema == replica.family.schema


@pytest.mark.parametrize("name", OWN["techniques"])
def test_a_technique_refuses_a_format_it_does_not_take(name: str, tmp_path: Path) -> None:
    technique = TECHNIQUES.get(name)
    other = next(f for f in ("torch", "openvino", "onnx", "pyfunc") if f not in (*technique.inputs, technique.output))
    artifact = Artifact(path=str(tmp_path), format=other, precision="fp32", key="contract")
    recipe = Variant(name="v", steps=(Step(name),), backend="fake", about="")
    assert f"{name} takes" in str(recipe.unfit(other))
    with pytest.raises(ConfigError, match=f"technique {name} takes {technique.inputs[0]}, not {other}"):
        build.build(recipe, artifact, "", pytest.fail)


def test_an_export_leaves_a_model_alone_that_has_its_format(tmp_path: Path) -> None:
    artifact = Artifact(path=str(tmp_path), format="onnx", precision="fp32", key="contract")
    assert build.build(VARIANTS["onnx-fp32"], artifact, "", pytest.fail) is artifact


@pytest.mark.parametrize("name", OWN["backends"])
def test_a_backend_refuses_a_format_it_does_not_load(name: str, cases: Callable[[str], Case]) -> None:
    backend = BACKENDS.get(name)
    case = cases("text_embedding")
    other = next(f for f in ("openvino", "torch") if f not in backend.formats)
    with pytest.raises(ConfigError, match=f"backend {name} loads"):
        replica_of(case, name, replace(case.model, format=other))


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_builds_pickles_and_answers_alike_twice(name: str, cases: Callable[[str], Case]) -> None:
    variant = VARIANTS[name]
    if reason := variant.unavailable():
        pytest.skip(reason)
    case = cases("tabular" if variant.unfit("torch") else "text_classification")
    artifact = build.build(variant, case.model, "contract", lambda: context_of(case))
    assert build.build(variant, case.model, "contract", pytest.fail) == artifact, "the second time comes from the cache"
    replica = replica_of(case, variant.backend, artifact)
    require_a_round_trip(replica, case)
    assert replica.score(case.table).outputs[replica.family.outputs[-1]].dtype in (np.float32, np.float64)
    executed = replica.session.executed()
    assert executed["backend"] == variant.backend
    assert mismatch(replica_settings(case, variant, artifact), executed) == ""


def replica_settings(case: Case, variant: Variant, artifact: Artifact) -> ReplicaSettings:
    return ReplicaSettings(
        family=case.family, model=case.model, backend=variant.backend, artifact=artifact, device=variant.device
    )
