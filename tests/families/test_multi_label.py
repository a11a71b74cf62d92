"""Any number of labels a row: those that transformers' own pipelines score above the threshold, and no other."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

import optinfer
from optinfer.config import JobConfig
from optinfer.errors import ConfigError, GateError
from optinfer.families import FAMILIES, Family, _image_reference
from optinfer.families._image_reference import pipeline_of
from optinfer.job_file import parse_job
from tests.conformance.images import ARCHITECTURES
from tests.conformance.images import images as varied
from tests.conformance.text_cases import changed, classifier
from tests.conformance.texts import texts
from tests.conftest import RunCli, located, read_rows

TEXT, IMAGE = "text-classification", "image-classification"
NAMES = {0: "joy", 1: "fear", 2: "surprise", 3: "love", 4: "anger"}
THRESHOLD = 0.6
Labelled = list[list[tuple[str, float]]]


@pytest.fixture(scope="module")
def moods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a classifier whose scores of a row have nothing to do with each other."""
    from transformers import AutoModelForSequenceClassification, pipeline

    folder = tmp_path_factory.mktemp("moods")
    classifier("Bert", id2label=NAMES, problem_type="multi_label_classification")(folder)
    classify = pipeline("text-classification", model=str(folder), device="cpu", function_to_apply="none")
    numbers = [classify(text, top_k=None, truncation=True) for text in texts()[:64]]
    return centred(folder, AutoModelForSequenceClassification, numbers)


def centred(folder: Path, kind: Any, numbers: list[Any]) -> Path:
    """Move and widen what a model's head gives, so that each label is given to some rows and not to others."""
    import torch

    logits = np.array([[next(o["score"] for o in row if o["label"] == n) for n in NAMES.values()] for row in numbers])
    model = kind.from_pretrained(folder)
    factor = torch.tensor(2 / logits.std(axis=0), dtype=torch.float32)
    with torch.no_grad():
        model.classifier.weight.mul_(factor[:, None])
        model.classifier.bias.sub_(torch.tensor(logits.mean(axis=0), dtype=torch.float32)).mul_(factor)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def theirs(moods: Path) -> Labelled:
    """Return what transformers' pipeline says of every text: each label with its score, best first."""
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(moods), device="cpu")
    return [
        [(one["label"], one["score"]) for one in classify(text, top_k=None, truncation=True)] for text in texts()[:64]
    ]


def above(scores: Labelled, threshold: float = THRESHOLD) -> Labelled:
    return [[(label, score) for label, score in row if score > threshold] for row in scores]


def job(model: Path, folder: Path, columns: dict[str, Any], **changes: Any) -> JobConfig:
    pq.write_table(pa.table(columns), folder / "t.parquet")
    role = "image" if "image" in columns else "text"
    settings = {"threshold": THRESHOLD} | changes.pop("settings", {})
    raw: dict[str, Any] = {
        "name": "labels",
        "source": {"path": str(folder / "t.parquet"), "columns": {role: role}},
        "model": {"path": str(model), "family": IMAGE if role == "image" else TEXT, **settings},
        "variant": "torch-fp32",
        "gate": {"sample_rows": 48},
        "sink": {"path": str(folder / "out")},
        "tracking": {"experiment": "tests"},
    }
    return parse_job(raw | changes)


def require(rows: list[dict[str, Any]], expected: Labelled) -> None:
    assert [row["labels"] for row in rows] == [[label for label, _ in row] for row in expected]
    for row, given in zip(rows, expected, strict=True):
        np.testing.assert_allclose(row["scores"], [score for _, score in given], atol=1e-5)
    assert len({len(row["labels"]) for row in rows}) > 2, "rows with few labels, and with many"


def family_of(model: Path, **settings: Any) -> Family:
    found: Family = FAMILIES.get(TEXT).load(located(model, TEXT), settings)
    return found


@pytest.mark.usefixtures("in_this_process")
class TestJob:
    def test_texts_have_the_labels_that_transformers_scores_above_the_threshold(
        self, moods: Path, theirs: Labelled, tmp_path: Path
    ) -> None:
        record = optinfer.run(job(moods, tmp_path, {"text": texts()[:64]}))
        require(read_rows(tmp_path / "out"), above(theirs))
        assert record.gate is not None
        assert (record.gate.metric, record.gate.value) == ("same_answers", 1.0)
        assert record.certificate.reference.library == "transformers"
        assert record.certificate.reference.agrees

    def test_so_have_images(self, tmp_path: Path) -> None:
        from dataclasses import replace

        from transformers import AutoModelForImageClassification

        kind = {"problem_type": "multi_label_classification", "id2label": NAMES}
        model = replace(ARCHITECTURES["ViT"], classes=kind).write(tmp_path / "model")
        encoded = [content for _, content in varied()[:48]]
        plain = pipeline_of(model)
        shown = [Image.open(io.BytesIO(content)) for content in encoded]
        logit = [[{**o, "score": np.log(o["score"] / (1 - o["score"]))} for o in plain(image)] for image in shown]
        centred(model, AutoModelForImageClassification, logit)
        classify = pipeline_of(model)
        scores = [[(one["label"], one["score"]) for one in classify(image)] for image in shown]
        optinfer.run(job(model, tmp_path, {"image": encoded}))
        require(read_rows(tmp_path / "out"), above(scores))

    def test_a_list_column_is_the_truth_and_a_row_is_right_with_all_of_its_labels_and_no_other(
        self, moods: Path, theirs: Labelled, tmp_path: Path
    ) -> None:
        """As scikit-learn's accuracy of sets has it (Tsoumakas and Katakis, 2007: subset accuracy)."""
        from sklearn.metrics import accuracy_score
        from sklearn.preprocessing import MultiLabelBinarizer

        answered = [[label for label, _ in row] for row in above(theirs)]
        truth = [[*reversed(row)] for row in answered]  # in no order
        truth[::5] = [[*row, "joy"] if "joy" not in row else row[1:] for row in answered[::5]]
        gate = {"label": "moods", "sample_rows": 48, "max_drop": 0.5}
        record = optinfer.run(job(moods, tmp_path, {"text": texts()[:64], "moods": truth}, gate=gate))
        binary = MultiLabelBinarizer(classes=[*NAMES.values()])
        expected = accuracy_score(binary.fit_transform(truth), binary.fit_transform(answered))
        assert record.gate is not None
        assert record.certificate.fidelity.metric == "accuracy"
        rows = record.certificate.fidelity.rows
        assert abs(record.certificate.fidelity.baseline - expected) < 1.5 / rows * len(truth) / rows
        with pytest.raises(ConfigError, match="f1_macro takes one label a row, here are lists; use accuracy"):
            optinfer.run(
                job(
                    moods,
                    tmp_path,
                    {"text": texts()[:64], "moods": truth},
                    gate={**gate, "metric": "f1_macro"},
                    sink={"path": str(tmp_path / "other")},
                )
            )

    def test_a_variant_that_gives_other_labels_scores_nothing(self, moods: Path, tmp_path: Path) -> None:
        """Its best label of each row may well be the same."""
        coarse = {"steps": ["onnx_export", {"onnx_int4_weights": {"block_size": 128}}], "backend": "onnxruntime"}
        columns = {"text": texts()[:64]}
        with pytest.raises(GateError, match=r"same_answers 0\.\d+"):
            optinfer.run(job(moods, tmp_path, columns, variant="coarse", variants={"coarse": coarse}))
        assert not list((tmp_path / "out").glob("*.parquet"))


class TestReference:
    """The comparison with transformers sees a label too many and a label too few."""

    ROWS = pa.table({"text": texts()[:16]})

    @pytest.fixture
    def finished(self, moods: Path, theirs: Labelled) -> Any:
        """Return a function from what is said of 16 texts to whether transformers agrees."""

        def agrees(said: Labelled) -> bool:
            columns = {
                "labels": [[label for label, _ in row] for row in said],
                "scores": [[score for _, score in row] for row in said],
            }
            family = family_of(moods, threshold=THRESHOLD)
            return bool(family.reference(self.ROWS, pa.table(columns, schema=family.schema)).agrees)

        return agrees

    def test_its_own_labels_agree(self, finished: Any, theirs: Labelled) -> None:
        assert finished(above(theirs)[:16])

    @pytest.mark.parametrize("other", [THRESHOLD - 0.2, THRESHOLD + 0.2], ids=["too many", "too few"])
    def test_those_of_another_threshold_do_not(self, finished: Any, theirs: Labelled, other: float) -> None:
        assert above(theirs, other)[:16] != above(theirs)[:16]
        assert not finished(above(theirs, other)[:16])

    def test_nor_does_a_row_without_its_label(self, finished: Any, theirs: Labelled) -> None:
        said = above(theirs)[:16]
        at = next(i for i, row in enumerate(said) if row)
        assert not finished([*said[:at], said[at][:-1], *said[at + 1 :]])

    def test_of_an_image_neither(self) -> None:
        scores: Any = [{"label": "joy", "score": 0.9}, {"label": "fear", "score": 0.7}, {"label": "love", "score": 0.1}]
        assert _image_reference._apart(scores, ["joy", "fear"], [0.9, 0.7], 0.6) == 0.0
        assert _image_reference._apart(scores, ["joy"], [0.9], 0.6) == pytest.approx(0.1)
        assert _image_reference._apart(scores, ["joy", "fear"], [0.9, 0.7], 0.8) == pytest.approx(0.1)
        assert _image_reference._apart(scores, ["joy"], [0.9], None) == 0.0


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"problem_type": None}, {"threshold": 0.5}, "problem_type None: remove model.threshold, take model.top_k, or"),
        ({"problem_type": "regression"}, {"threshold": 0.5}, "problem_type 'regression'"),
        ({"id2label": {**NAMES, 4: "joy"}}, {"threshold": 0.5}, "gives two labels one name; correct id2label"),
    ],
)
def test_where_a_threshold_means_nothing_it_is_refused(
    tmp_path: Path, changes: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    built = classifier("Bert", id2label=NAMES, problem_type="multi_label_classification")
    changed(built, "config.json", **changes)(tmp_path)
    with pytest.raises(ConfigError, match=message):
        family_of(tmp_path, **settings)


@pytest.mark.parametrize(("settings", "message"), [({"top_k": 2}, "both set"), ({"threshold": 1.0}, "less than 1")])
def test_settings_that_contradict_are_refused(
    moods: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        job(moods, tmp_path, {"text": ["a"]}, settings=settings)


def test_init_says_the_threshold_of_a_model_that_gives_any_number_of_labels(
    moods: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: RunCli
) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"text": texts()[:8], "label": ["joy"] * 8}), "t.parquet")
    assert run_cli("init", "--table", "t.parquet", "--model", moods)[0] == 0
    written = yaml.safe_load(Path("job.yaml").read_text())
    assert written["model"]["threshold"] == 0.5
    assert "gate" not in written, "one label is no truth of several"
    assert run_cli("init", "--table", "t.parquet", "--model", moods, "--set", "model.top_k=2", "-o", "k.yaml")[0] == 0
    assert yaml.safe_load(Path("k.yaml").read_text())["model"] == {"path": str(moods), "family": TEXT, "top_k": 2}
