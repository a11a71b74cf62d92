"""CTranslate2's encoders answer as transformers' own do, alone and in company; others are refused by their name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("ctranslate2")

from optinfer.backends.ctranslate2 import ENCODERS
from optinfer.errors import ConfigError
from optinfer.families import FAMILIES
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import TECHNIQUES, BuildContext
from tests.conformance.text_models import ARCHITECTURES
from tests.conformance.texts import texts
from tests.conftest import located

# As the tiny models of the suite have them: wide random weights, in which a wrong position moves an answer by 1e-1.
ROUNDING = 2e-5
HEADS = {"text-embedding": "Model", "text-classification": "ForSequenceClassification"}


def converted(model: Artifact, family: str, out: Path, **options: Any) -> Artifact:
    out.mkdir()
    technique = TECHNIQUES.get("ctranslate2-convert")
    context = BuildContext(FAMILIES.get(family).load(model, {}), None)
    change = technique.run(model, context, out, {**technique.defaults, **options})
    made = replace(model, path=str(out), entry="", beside=None, format=change.format, precision=change.precision)
    return replace(made, load_options=change.load_options)


def replica(model: Artifact, family: str, backend: str = "torch", artifact: Artifact | None = None) -> Replica:
    settings = ReplicaSettings(family=family, model=model, backend=backend, artifact=artifact or model, dedupe=False)
    return Replica(settings)


@pytest.fixture(
    scope="module", params=[(name, family) for name in ENCODERS for family in HEADS], ids=lambda p: " ".join(p)
)
def held(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, str]:
    """Return a model that transformers made and saved, and its family."""
    name, family = request.param
    folder = tmp_path_factory.mktemp("model") / "model"
    ARCHITECTURES[name.removesuffix("Model")].made(folder, HEADS[family])
    return located(folder, family), family


def test_exact_answers_are_those_of_the_models_library(held: tuple[Artifact, str], tmp_path: Path) -> None:
    model, family = held
    rows = pa.table({"text": texts()})
    ours = replica(model, family, "ctranslate2", converted(model, family, tmp_path / "made", quantization="float32"))
    scored, truth = ours.score(rows), replica(model, family).score(rows)
    # A text that spells the padding token: RoBERTa gives that no position, CTranslate2 does, and says no.
    lost = {row for row, why in scored.rejected.items() if "holds the padding token itself" in why}
    assert {texts()[row] for row in lost} <= {text for text in texts() if "<pad>" in text}
    assert set(scored.kept.tolist()) | lost == set(truth.kept.tolist())
    assert bool(lost) == ("oberta" in json.loads(Path(model.path, "config.json").read_text())["architectures"][0])
    same = np.isin(truth.kept, scored.kept)
    for name, values in truth.outputs.items():
        np.testing.assert_allclose(scored.outputs[name], values[same], rtol=0, atol=ROUNDING * np.abs(values).max())
    # Nothing of ours is in between: the family asks transformers, or sentence-transformers, for the same rows.
    reference = ours.family.reference(rows.take(pa.array(scored.kept)), scored.added)
    assert reference.library
    assert reference.agrees, reference.said
    ran = ours.executed()
    assert (ran["backend"], ran["device"], set(ran["precisions"])) == ("ctranslate2", "cpu", {"fp32"})


def test_int8_is_close_and_its_rounding_is_all_that_neighbours_move(sample_table: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    model, family = located(), "text-embedding"
    rows = pq.read_table(sample_table, columns=["text"]).slice(0, 24)
    ours = replica(model, family, "ctranslate2", converted(model, family, tmp_path / "made"))
    scored, truth = ours.score(rows), replica(model, family).score(rows)
    cosine = (scored.outputs["sentence_embedding"] * truth.outputs["sentence_embedding"]).sum(axis=1)
    assert cosine.min() > 0.985
    # Rounding in fp32 moves a number across an edge of int8 now and then: the certificate says how far that goes.
    assert max(ours.invariance(rows, scored).values()) < 0.02
    assert ours.executed()["precisions"]["int8"] == 6 * 6  # layers, and products with weights in each


@pytest.mark.parametrize("name", ["Albert", "Electra", "MPNet"])
def test_an_architecture_that_it_does_not_know_is_refused_by_name(name: str, tmp_path: Path) -> None:
    ARCHITECTURES[name].made(tmp_path / "model")
    model = located(tmp_path / "model")
    with pytest.raises(ConfigError, match=rf"takes BertModel, .*, this model is {name}Model"):
        converted(model, "text-embedding", tmp_path / "made")


def test_what_was_done_to_the_module_on_load_is_not_lost_without_a_word(tmp_path: Path) -> None:
    model = replace(located(), conversions=({"technique": "prune_structured", "folder": ""},))
    with pytest.raises(ConfigError, match="reads the model's own files, which prune_structured left as they were"):
        converted(model, "text-embedding", tmp_path / "made")


def test_another_quantization_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no quantization 'int-8'.*did you mean 'int8'"):
        converted(located(), "text-embedding", tmp_path / "made", quantization="int-8")
