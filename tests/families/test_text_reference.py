"""The comparison with a model's own library sees what is wrong, is not misled by ties, and does nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from optinfer.families import FAMILIES, Family, Reference, _reference
from optinfer.inference.replica import Replica, ReplicaSettings
from tests.conformance.text_cases import changed, classifier
from tests.conformance.text_models import CLASSIFICATION, EMBEDDING, pooling, sentence
from tests.conformance.texts import texts
from tests.conftest import located

ROWS = pa.table({"text": texts()[:16]})


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    sentence("Bert", pooling("mean"), prompts={"query": "query: ", "none": ""}, default_prompt_name="query")(folder)
    return folder


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    classifier("Bert")(folder)
    return folder


def finished(folder: Path, family: str, rows: pa.Table = ROWS, **settings: Any) -> tuple[Family, pa.Table]:
    model = located(folder, family)
    replica = Replica(
        ReplicaSettings(family=family, family_settings=settings, model=model, backend="torch", artifact=model)
    )
    return replica.family, replica.score(rows).added


def family_of(folder: Path, family: str, **settings: Any) -> Family:
    found: Family = FAMILIES.get(family).load(located(folder, family), settings)
    return found


def test_right_vectors_agree_and_name_library_and_version(vectors: Path) -> None:
    import sentence_transformers

    family, table = finished(vectors, EMBEDDING)
    found = family.reference(ROWS, table)
    assert (found.library, found.version) == ("sentence-transformers", sentence_transformers.__version__)
    assert found.agrees
    assert found.rows == 16
    assert found.largest_difference is not None
    assert found.largest_difference < 1e-5 < found.tolerance


@pytest.mark.parametrize("settings", [{"prompt_name": "none"}, {"max_length": 6}, {"prompt": "find: "}])
def test_vectors_read_with_another_setting_do_not_agree(vectors: Path, settings: dict[str, Any]) -> None:
    _, table = finished(vectors, EMBEDDING, **settings)
    assert not family_of(vectors, EMBEDDING).reference(ROWS, table).agrees
    assert family_of(vectors, EMBEDDING, **settings).reference(ROWS, table).agrees


def test_one_number_off_in_one_row_is_seen_and_the_row_named(vectors: Path) -> None:
    family, table = finished(vectors, EMBEDDING)
    numbers = np.array(table.column("embedding").to_pylist(), dtype=np.float32)
    numbers[11, 3] += 1e-2
    found = family.reference(ROWS, pa.table({"embedding": pa.FixedSizeListArray.from_arrays(numbers.ravel(), 32)}))
    assert not found.agrees
    assert found.note == "most in row 11"


def test_vectors_of_another_width_do_not_agree(vectors: Path) -> None:
    _, table = finished(vectors, EMBEDDING, truncate_dim=8)
    found = family_of(vectors, EMBEDDING).reference(ROWS, table)
    assert not found.agrees
    assert "32" in found.note


def renamed(table: pa.Table, names: dict[str, str]) -> pa.Table:
    return pa.table({"label": [names[label] for label in table["label"].to_pylist()], "score": table["score"]})


def test_right_classes_agree_and_permuted_ones_do_not(classes: Path) -> None:
    family, table = finished(classes, CLASSIFICATION)
    assert family.reference(ROWS, table).agrees
    wrong = renamed(table, {"bad": "good", "good": "so so", "so so": "bad"})
    assert not family.reference(ROWS, wrong).agrees
    unknown = renamed(table, {"bad": "0", "good": "1", "so so": "2"})
    assert not family.reference(ROWS, unknown).agrees


def test_scores_of_another_function_do_not_agree(classes: Path) -> None:
    family, table = finished(classes, CLASSIFICATION)
    score = np.asarray(table["score"])
    sigmoid = pa.table({"label": table["label"], "score": pa.array(1 / (1 + np.exp(-score)))})
    assert not family.reference(ROWS, sigmoid).agrees


def test_of_two_classes_that_are_equally_likely_either_may_be_named() -> None:
    theirs = [[("a", 0.5 + 1e-7), ("b", 0.5 - 1e-7)]]
    for label in ("a", "b"):
        pairs = _reference.paired(theirs, pa.table({"label": [label], "score": [0.5]}))
        assert np.abs(np.subtract(*pairs)).max() < 1e-6


def test_a_class_that_is_not_the_best_may_not_be_named() -> None:
    pairs = _reference.paired([[("a", 0.9), ("b", 0.1)]], pa.table({"label": ["b"], "score": [0.1]}))
    assert np.abs(np.subtract(*pairs)).max() > 0.5


@pytest.mark.parametrize("names", [{"0": "crane", "1": "crane", "2": "gull"}, {"0": 0, "1": 1, "2": 2}])
def test_names_may_be_the_same_or_no_texts(tmp_path: Path, names: dict[str, Any]) -> None:
    changed(classifier("Bert"), "config.json", id2label=names, label2id=None)(tmp_path)
    family, table = finished(tmp_path, CLASSIFICATION, top_k=3)
    assert family.reference(ROWS, table).agrees


def test_where_the_library_is_not_installed_it_says_that_nobody_compared(
    vectors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, table = finished(vectors, EMBEDDING)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # Python's own way to say that there is none
    found = family.reference(ROWS, table)
    assert found == Reference(
        library="sentence-transformers", note="sentence-transformers is not installed: nobody compared"
    )
    assert found.agrees


def test_comparing_opens_no_connection_prints_nothing_and_leaves_torch_as_it_was(
    vectors: Path, classes: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch

    made = [finished(vectors, EMBEDDING), finished(classes, CLASSIFICATION)]

    connections: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event in ("socket.connect", "socket.getaddrinfo"):
            connections.append(f"{event} {arguments}")

    sys.addaudithook(watch)  # stays as long as the process
    threads, modules = torch.get_num_threads(), set(sys.modules)
    capfd.readouterr()
    for family, table in made:
        assert family.reference(ROWS, table).agrees
    watching = False
    assert connections == []
    assert capfd.readouterr().out == ""
    assert torch.get_num_threads() == threads
    assert not [name for name in set(sys.modules) - modules if name.startswith("transformers_modules")]
