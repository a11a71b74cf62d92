"""Classes of texts: a head trained on real labels, judged by its accuracy; and what transformers saves."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import optinfer
from optinfer.errors import ConfigError
from optinfer.families import FAMILIES
from optinfer.families._classes import Classes
from optinfer.families._job_settings import LabelSettings
from optinfer.inference.replica import Replica, ReplicaSettings
from tests.conftest import REPO, MakeJob, RunCli, located, read_rows

pytestmark = pytest.mark.slow

LENGTH = 32


@pytest.fixture(scope="module")
def train() -> Any:
    """Return the shipped training script as a module."""
    spec = importlib.util.spec_from_file_location("train", REPO / "jobs" / "train_section_classifier.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sections(train: Any, tmp_path_factory: pytest.TempPathFactory, sample_table: Path) -> Path:
    """Train on real rows as the demo does: vectors and sections in, a model folder and held-out rows out."""
    folder = tmp_path_factory.mktemp("sections")
    table = pq.read_table(sample_table).slice(0, 600)
    model = located()
    settings = ReplicaSettings(
        family="text-embedding", family_settings={"max_length": LENGTH}, model=model, backend="torch", artifact=model
    )
    replica = Replica(settings)
    vectors = replica.score(table.select(["text"])).added
    (folder / "embeddings").mkdir()
    pq.write_table(
        table.select(["id", "section"]).append_column("embedding", vectors["embedding"]),
        folder / "embeddings" / "part-0.parquet",
    )
    train.main(str(folder / "embeddings"), str(folder))
    return folder


def settings_of(sections: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": {"path": str(sections / "model"), "family": "text-classification", "max_length": LENGTH},
        "source__fragment_rows": 128,
        "sink__columns": ["id", "section"],
        "gate": {"label": "section", "max_drop": 0.1, "sample_rows": 120},
        **changes,
    }


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("variant", ["torch-fp32", "onnx-fp32", "onnx-int8-qdq"])
def test_every_variant_names_sections_about_as_well_as_fp32(
    variant: str, sections: Path, make_job: MakeJob, sink: Path
) -> None:
    record = optinfer.run(make_job(sections / "heldout.parquet", sink, **settings_of(sections, variant=variant)))
    rows = read_rows(sink)
    accuracy = np.mean([row["label"] == row["section"] for row in rows])
    fidelity = record.certificate.fidelity
    assert 0.4 < accuracy < 0.95
    assert fidelity.metric == "accuracy"
    assert fidelity.baseline == pytest.approx(accuracy, abs=0.1)
    assert fidelity.ci_low < fidelity.value < fidelity.ci_high
    assert fidelity.relative_low >= 0.9
    assert all(0 < row["score"] <= 1 for row in rows)


def test_a_recipe_pruned_until_it_breaks_is_refused_with_by_how_much(
    sections: Path, write_job: Any, run_cli: RunCli, sink: Path
) -> None:
    recipe = {"steps": [{"prune_structured": {"heads": 0.75, "neurons": 0.75}}], "backend": "torch"}
    changes = settings_of(sections, variant="broken", variants={"broken": recipe})
    code, _, err = run_cli("run", write_job(sections / "heldout.parquet", sink, **changes))
    assert code == 4
    assert "broken: accuracy 0." in err
    assert "below the 90.0% that gate.max_drop 0.1 asks for" in err
    assert not list(sink.glob("*.parquet"))


def test_labels_that_calibrate_never_judge(sections: Path, make_job: MakeJob, sink: Path) -> None:
    from optinfer.commands.resolved import resolve

    planned = resolve(make_job(sections / "heldout.parquet", sink, **settings_of(sections, variant="torch-fp32")))
    sample = planned.bench(lambda line: None).sample
    judged, calibrating = (
        Counter(zip(*part.to_pydict().values(), strict=True)) for part in (sample.gate, sample.calibration)
    )
    table = pq.read_table(sections / "heldout.parquet", columns=["text", "section"])
    there = Counter(zip(*table.to_pydict().values(), strict=True))
    assert judged.total() == 120
    assert calibrating.total() > 100
    assert all(count <= there[row] for row, count in (judged + calibrating).items()), "a row did both"


def test_a_label_column_that_is_not_there_is_refused(sections: Path, make_job: MakeJob, sink: Path) -> None:
    changes = settings_of(sections, gate={"label": "sektion"}, variant="torch-fp32")
    with pytest.raises(ConfigError, match=r"'sektion' is not in .*did you mean 'section'"):
        optinfer.run(make_job(sections / "heldout.parquet", sink, **changes))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny sequence classifier as transformers does, with MiniLM's tokenizer."""
    import shutil

    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("classifier")
    names = {0: "bad", 1: "good", 2: "so so"}
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, id2label=names, num_labels=3
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    shutil.copy2(Path(located().path, "tokenizer.json"), folder)
    return folder


def replica(folder: Path, **settings: Any) -> Replica:
    model = located(folder, "text-classification")
    return Replica(
        ReplicaSettings(
            family="text-classification", family_settings=settings, model=model, backend="torch", artifact=model
        )
    )


TEXTS = pa.table({"text": ["a fine package", "no", None]})


def test_a_transformers_classifier_scores_with_its_own_head(classifier: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    ours = replica(classifier)
    scored = ours.score(TEXTS)
    table = scored.added
    features = ours.family.preprocess(TEXTS).collate(np.array([0, 1]))
    theirs = AutoModelForSequenceClassification.from_pretrained(classifier)
    with torch.inference_mode():
        logits = theirs(**{name: torch.from_numpy(value) for name, value in features.items()}).logits
    expected = logits.softmax(dim=1).max(dim=1)
    assert table["label"].to_pylist() == [theirs.config.id2label[int(i)] for i in expected.indices]
    np.testing.assert_allclose(table["score"], expected.values, atol=1e-5)
    assert scored.rejected == {2: "text is null"}


def test_top_k_gives_the_best_classes_first(classifier: Path) -> None:
    ours = replica(classifier, top_k=3)
    rows = ours.score(TEXTS).added.to_pylist()
    for row in rows:
        assert sorted(row["labels"]) == ["bad", "good", "so so"]
        assert row["scores"] == sorted(row["scores"], reverse=True)
        assert sum(row["scores"]) == pytest.approx(1, abs=1e-5)


def test_a_multi_label_model_scores_each_class_for_itself(classifier: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "model"
    shutil.copytree(classifier, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "problem_type": "multi_label_classification"}))
    ours = replica(copy, top_k=3)
    scored = ours.score(TEXTS)
    logits = scored.outputs["logits"][0]
    expected = sorted((1 / (1 + np.exp(-logits))).tolist(), reverse=True)
    assert scored.added.to_pylist()[0]["scores"] == pytest.approx(expected, abs=1e-5)


def test_more_classes_than_there_are_is_refused(classifier: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.top_k 4 is more than the model's 3 classes"):
        replica(classifier, top_k=4)


def test_an_encoder_without_a_head_is_refused_instead_of_given_a_random_one(tmp_path: Path) -> None:
    import shutil

    plain = tmp_path / "plain"
    shutil.copytree(located().path, plain)
    (plain / "modules.json").unlink()
    config = json.loads((plain / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps({**config, "id2label": {"0": "a", "1": "b"}}))
    with pytest.raises(ConfigError, match="not a sequence classifier"):
        FAMILIES.get("text-classification").load(located(plain, "text-classification"), {})


@pytest.mark.parametrize(
    ("config", "metrics", "answers"),
    [
        ({"num_labels": 1}, ("r2",), ["LABEL_0", "LABEL_0"]),
        ({"num_labels": 1, "problem_type": "regression"}, ("r2",), [0.25, -3.0]),
        ({"num_labels": 2, "problem_type": "regression"}, ("r2", "cosine"), ["LABEL_0", "LABEL_1"]),
        ({"num_labels": 2}, ("top1_agreement", "cosine"), ["LABEL_0", "LABEL_1"]),
    ],
)
def test_a_number_is_compared_by_its_value_and_a_class_by_its_name(
    config: dict[str, object], metrics: tuple[str, ...], answers: list[object], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    classes = Classes(tmp_path, LabelSettings(), must_name=False)
    logits = np.array([[0.25, -1.0], [-3.0, 2.0]], dtype=np.float32)[:, : len(classes.names)]
    assert classes.metrics == metrics
    assert classes.answers({"logits": logits}).tolist() == answers


def test_scores_are_finite_for_any_number_and_of_a_regression_the_number_itself(tmp_path: Path) -> None:
    logits = {"logits": np.array([[-1e4], [0.0], [1e4]], dtype=np.float32)}
    expected = {"regression": [-1e4, 0.0, 1e4], "multi_label_classification": [0.0, 0.5, 1.0]}
    for problem, scores in expected.items():
        (tmp_path / "config.json").write_text(json.dumps({"num_labels": 1, "problem_type": problem}))
        table = Classes(tmp_path, LabelSettings(), must_name=False).table(logits)
        assert table["score"].to_pylist() == scores
        assert table["label"].to_pylist() == ["LABEL_0"] * 3
