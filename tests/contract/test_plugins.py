"""Every family, backend and technique found in its folder keeps the contract its folder's `__init__` states."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from optinfer import plugins
from optinfer.errors import ConfigError
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.optimization import build, variants
from optinfer.optimization.techniques import BuildContext
from tests.conftest import located

HEAVY = ("ray", "torch", "mlflow", "onnxruntime", "openvino", "nncf", "transformers", "onnx")
TEXTS = pa.table({"text": ["a game", "", "a library for reading tables " * 5, "drivers", None]})
OWN = {
    kind: [n for n, module in plugins.names(kind).items() if module.startswith("optinfer.")] for kind in plugins.ROOMS
}


@pytest.mark.parametrize("kind", plugins.ROOMS)
def test_listing_and_importing_plugins_imports_nothing_heavy(kind: str) -> None:
    code = (
        "import sys\nfrom optinfer import plugins\n"
        f"for name in {OWN[kind]}: plugins.load({kind!r}, name)\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", OWN["backends"])
def test_a_backend_states_what_it_needs(name: str) -> None:
    backend = plugins.load("backends", name)
    assert backend.FORMATS
    assert set(backend.MAX_BATCH_TOKENS) == set(backend.DEVICES)
    assert backend.unavailable("cpu") is None
    assert isinstance(backend.REQUIRES, tuple)


@pytest.mark.parametrize("name", OWN["techniques"])
def test_a_technique_states_what_it_needs(name: str) -> None:
    technique = plugins.load("techniques", name)
    assert technique.INPUTS
    assert technique.OUTPUT in {f for backend in OWN["backends"] for f in plugins.load("backends", backend).FORMATS}
    assert isinstance(technique.DEFAULTS, dict)
    assert isinstance(technique.CALIBRATES, bool)
    assert any(step.technique == name for v in variants.VARIANTS.values() for step in v.steps), "no variant uses it"


@pytest.mark.parametrize("name", OWN["families"])
def test_a_family_states_what_it_needs(name: str) -> None:
    family = plugins.load("families", name)
    assert isinstance(family.SETTINGS, tuple)
    assert family.FRAGMENT_ROWS > 0


def test_an_unknown_plugin_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'onnxruntime'"):
        plugins.load("backends", "onnxruntim")


@pytest.fixture(scope="module")
def context() -> BuildContext:
    family = plugins.load("families", "text-embedding").load(located(), {})
    return BuildContext(family, family.preprocess(TEXTS))


@pytest.mark.slow
@pytest.mark.parametrize("name", variants.VARIANTS)
def test_a_variant_builds_pickles_and_answers_alike_twice(name: str, context: BuildContext) -> None:
    variant = variants.get(name)
    if reason := variant.unavailable():
        pytest.skip(reason)
    model = located()
    artifact = build.build(variant, model, "contract", lambda: context)
    assert build.build(variant, model, "contract", pytest.fail) == artifact, "the second time comes from the cache"
    settings = ReplicaSettings(
        family="text-embedding", model=model, backend=variant.backend, artifact=artifact, threads=2
    )
    replica = Replica(pickle.loads(pickle.dumps(settings)))
    first, second = replica.score(TEXTS), replica.score(TEXTS)
    vectors = first.outputs["sentence_embedding"]
    assert vectors.dtype == np.float32
    assert first.kept.tolist() == [0, 1, 2, 3]
    assert first.rejected == {4: "text is null"}
    np.testing.assert_array_equal(vectors, second.outputs["sentence_embedding"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-2)
    assert replica.as_table(first).schema == replica.family.schema
    assert replica.session.executed()["backend"] == variant.backend
