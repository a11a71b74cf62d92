"""Our answers for 64 texts are those of sentence-transformers and of transformers' pipeline, to 1e-5."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from optinfer.families import FAMILIES
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.optimization.build import build
from optinfer.optimization.techniques import BuildContext
from optinfer.optimization.variants import VARIANTS
from tests.conformance.text_cases import CASES, built
from tests.conformance.text_models import EMBEDDING, Case
from tests.conformance.texts import texts
from tests.conftest import located

ROUNDING = 1e-5


def replica_of(case: Case, folder: Path) -> Replica:
    """Return what a job runs: the model as it is, in fp32."""
    model = located(folder, case.family)
    return Replica(
        ReplicaSettings(
            family=case.family, family_settings=case.settings, model=model, backend="torch", artifact=model, threads=1
        )
    )


def vectors_of_library(case: Case, folder: Path, rows: list[str]) -> np.ndarray[Any, Any]:
    """Return sentence-transformers' own vectors: the folder, and what the job says, given to it plainly."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32})
    if limit := case.settings.get("max_length") or case.other_limit:
        model.max_seq_length = limit
    said = {key: value for key, value in case.settings.items() if key != "max_length"}
    return np.asarray(model.encode(rows, batch_size=1, show_progress_bar=False, **said))


def scores_of_library(case: Case, folder: Path, rows: list[str]) -> list[list[dict[str, Any]]]:
    """Return all of transformers' own labels and scores of each row, best first."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    classify = pipeline(
        "text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder), device="cpu"
    )
    cut = {"truncation": True, "max_length": case.settings.get("max_length") or case.other_limit}
    rows = [case.settings.get("prompt", "") + row for row in rows]
    return [classify(row, top_k=None, **cut) for row in rows]


def require_the_same_classes(case: Case, given: list[dict[str, Any]], finished: pa.Table) -> None:
    """Compare what a row has, which may name equally likely classes in another order."""
    if "labels" in finished.column_names:
        ours = [list(zip(row["labels"], row["scores"], strict=True)) for row in finished.to_pylist()]
    else:
        ours = [[(row["label"], row["score"])] for row in finished.to_pylist()]
    for mine, theirs in zip(ours, given, strict=True):
        by_label = {row["label"]: row["score"] for row in theirs}
        best = [row["score"] for row in theirs[: len(mine)]]
        np.testing.assert_allclose([score for _, score in mine], best, atol=ROUNDING)
        np.testing.assert_allclose([score for _, score in mine], [by_label[label] for label, _ in mine], atol=ROUNDING)


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: re.sub(r"\W+", "-", f"{case.family}-{case.architecture}-{case.name}")
)
def test_answers_are_the_librarys(case: Case, tmp_path: Path) -> None:
    folder = built(case, tmp_path / "model")
    rows = texts()
    ours = replica_of(case, folder)
    scored = ours.score(pa.table({"text": rows}))
    assert len(scored.kept) == len(rows) - case.no_tokens, scored.rejected
    kept = [rows[i] for i in scored.kept]
    finished = scored.added
    if case.family == EMBEDDING or (folder / "modules.json").is_file():
        theirs = vectors_of_library(case, folder, kept) if case.family == EMBEDDING else _logits(case, folder, kept)
        output = scored.outputs[ours.family.outputs[0]]
        np.testing.assert_allclose(output, theirs, atol=ROUNDING, rtol=ROUNDING)
        spread = theirs.std(axis=0).max()
        if case.family == EMBEDDING:
            vectors = np.array(finished.column("embedding").to_pylist(), dtype=np.float32)
            np.testing.assert_array_equal(vectors, output)
    else:
        given = scores_of_library(case, folder, kept)
        require_the_same_classes(case, given, finished)
        spread = np.std([row[0]["score"] for row in given])
    assert spread > 1e-2, "a model that answers the same for every text shows nothing"
    reference = ours.family.reference(pa.table({"text": kept}), finished)
    assert reference.agrees
    assert reference.rows == len(kept)


def _logits(case: Case, folder: Path, rows: list[str]) -> np.ndarray[Any, Any]:
    from dataclasses import replace

    return vectors_of_library(replace(case, settings={}), folder, rows)


EXPORTED = {"Roberta, mean", "Qwen3, last token", "Bert, prompt left out, cls"}


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if f"{case.architecture}, {case.name}" in EXPORTED],
    ids=lambda case: case.architecture,
)
def test_the_exported_model_answers_alike(case: Case, tmp_path: Path) -> None:
    """The others are exported by `make conformance`, which takes minutes."""
    folder = built(case, tmp_path / "model")
    model, table = located(folder, case.family), pa.table({"text": texts()})
    family = FAMILIES.get(case.family).load(model, case.settings)
    exported = build(
        VARIANTS["onnx-fp32"], model, "conformance", lambda: BuildContext(family, family.preprocess(table))
    )
    settings = ReplicaSettings(
        family=case.family, family_settings=case.settings, model=model, backend="onnxruntime", artifact=exported
    )
    scored, ours = Replica(settings).score(table), replica_of(case, folder).score(table)
    assert scored.kept.tolist() == ours.kept.tolist()
    for name, values in ours.outputs.items():
        np.testing.assert_allclose(scored.outputs[name], values, atol=1e-4)
