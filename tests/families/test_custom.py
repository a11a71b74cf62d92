"""A class of the job's own: byte pairs of package descriptions to their section, by a small network trained here."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import optinfer
from optinfer.errors import ConfigError, NoVariantError, OptinferError
from optinfer.families import FAMILIES
from tests.conftest import MakeJob, RunCli, WriteTable, located, read_rows
from tests.families.conftest import WriteModule, quarantined

pytestmark = pytest.mark.usefixtures("in_this_process")

# What a user would write: it knows nothing of optinfer.
SECTIONS = """
import json
import zlib

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file

BUCKETS = 2048


def bag(text):
    counts = np.zeros(BUCKETS, dtype=np.float32)
    for word in text.lower().split():
        for part in {word, *(word[i : i + 3] for i in range(len(word) - 2))}:
            counts[zlib.crc32(part.encode()) % BUCKETS] += 1
    return counts / np.linalg.norm(counts)


def network(classes):
    return torch.nn.Sequential(torch.nn.Linear(BUCKETS, 64), torch.nn.ReLU(), torch.nn.Linear(64, classes))


class Sections:
    roles = ("description",)
    inputs = ("words",)
    outputs = ("logits",)
    metrics = ("top1_agreement", "cosine")
    schema = pa.schema([("section", pa.string()), ("sure", pa.float32())])

    def __init__(self, sections):
        self.sections = np.array(sections, dtype=object)

    def load(self, path):
        module = network(len(self.sections))
        module.load_state_dict(load_file(path))
        return module

    def preprocess(self, table):
        texts = table["description"].to_pylist()
        if any(len(text.split()) < 2 for text in texts):
            raise ValueError("a description of one word says nothing")
        return {"words": np.stack([bag(text) for text in texts])}

    def forward(self, module, words):
        return module(torch.sqrt(words))

    def postprocess(self, outputs):
        logits = outputs["logits"].astype(np.float64)
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return pa.table({"sure": shares.max(axis=1), "section": self.answers(outputs)})

    def answers(self, outputs):
        return self.sections[outputs["logits"].argmax(axis=1)]
"""

# Two inputs of a width of the fragment's own, two outputs, rows and widths left open.
PADDED = """
import numpy as np
import pyarrow as pa
import torch


class Padded:
    roles = ("text", "weight")
    inputs = ("letters", "weights")
    outputs = ("sum", "most")
    schema = pa.schema([("sum", pa.float32()), ("most", pa.float32())])
    dynamic_axes = {"letters": {0: "rows", 1: "letters"}, "weights": {0: "rows"}}

    def load(self, path):
        return torch.nn.Embedding(256, 1)

    def preprocess(self, table):
        letters = [text.encode() for text in table["text"].to_pylist()]
        padded = np.zeros((len(letters), max(map(len, letters))), dtype=np.int64)
        for i, row in enumerate(letters):
            padded[i, : len(row)] = list(row)
        return {"letters": padded, "weights": table["weight"].to_numpy().astype(np.float32)}

    def forward(self, module, letters, weights):
        values = letters.float() / 255
        return values.sum(dim=1) * weights, values.max(dim=1).values

    def postprocess(self, outputs):
        return pa.table(outputs)
"""


@pytest.fixture(scope="module")
def frequent(sample_table: Path) -> pa.Table:
    """Return the real rows of the four most frequent sections."""
    table = pq.read_table(sample_table)
    most = {name for name, _ in Counter(table["section"].to_pylist()).most_common(4)}
    return table.filter(pa.array([section in most for section in table["section"].to_pylist()]))


@pytest.fixture(scope="module")
def weights(frequent: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on two rows in three; return the weights."""
    import torch
    from safetensors.torch import save_file

    code: dict[str, Any] = {}
    exec(SECTIONS, code)
    torch.manual_seed(0)
    rows = frequent.take([i for i in range(frequent.num_rows) if i % 3])
    classes = sorted(set(rows["section"].to_pylist()))
    words = torch.sqrt(torch.tensor(np.stack([code["bag"](text) for text in rows["text"].to_pylist()])))
    target = torch.tensor([classes.index(section) for section in rows["section"].to_pylist()])
    module = code["network"](len(classes))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(words), target).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("sections") / "sections.safetensors"
    save_file(module.state_dict(), path)
    return path


@pytest.fixture
def unseen(frequent: pa.Table, tmp_path: Path, write_table: WriteTable) -> Path:
    rows = frequent.take([i for i in range(frequent.num_rows) if i % 3 == 0]).slice(0, 200)
    return write_table(tmp_path / "unseen.parquet", columns={name: rows[name] for name in rows.column_names})


@pytest.fixture
def sections_job(make_job: MakeJob, write_module: WriteModule, weights: Path, frequent: pa.Table) -> Any:
    """Return a function from source, sink and changes to a job for the class `Sections`."""
    write_module("sections_of_this_job", SECTIONS)

    def make(source: Path, sink: Path, **changes: Any) -> Any:
        settings: dict[str, Any] = {
            "source__columns": {"description": "text"},
            "source__fragment_rows": 64,
            "model": {
                "path": str(weights),
                "family": "custom",
                "class": "sections_of_this_job:Sections",
                "arguments": {"sections": sorted(set(frequent["section"].to_pylist()))},
            },
            "variant": "torch-fp32",
            "gate": {"min": 0.95, "sample_rows": 64},
        }
        return make_job(source, sink, **{**settings, **changes})

    return make


@pytest.mark.parametrize(
    "variant",
    [
        "torch-fp32",
        "onnx-fp32",
        "onnx-int8-dynamic",
        "onnx-int8-qdq",
        "openvino-int8-static",
        "torchao-int8-weights",
    ],
)
def test_every_variant_keeps_the_accuracy_on_rows_nobody_trained_on(
    sections_job: Any, unseen: Path, sink: Path, variant: str
) -> None:
    gate = {"label": "section", "max_drop": 0.05, "sample_rows": 128}
    record = optinfer.run(sections_job(unseen, sink, variant=variant, gate=gate))
    fidelity = record.certificate.fidelity
    assert fidelity.metric == "accuracy"
    assert fidelity.baseline > 0.6
    rows = read_rows(sink)
    truth = pq.read_table(unseen)["section"].to_pylist()
    assert len(rows) == len(truth)
    assert np.mean([row["section"] == true for row, true in zip(rows, truth, strict=True)]) > 0.6
    assert all(0.25 < row["sure"] <= 1 for row in rows)
    assert record.certificate.executed["precisions"].keys() & {"int8" if "int8" in variant else "fp32"}


def test_without_a_label_the_classs_own_metric_compares_with_the_baseline(
    sections_job: Any, unseen: Path, sink: Path
) -> None:
    assert optinfer.run(sections_job(unseen, sink, variant="onnx-int8-dynamic")).gate.metric == "top1_agreement"


def test_rows_that_preprocess_cannot_take_are_quarantined_and_the_rest_is_scored(
    sections_job: Any, unseen: Path, write_table: WriteTable, tmp_path: Path
) -> None:
    table = pq.read_table(unseen).slice(0, 100)
    texts, ids = table["text"].to_pylist(), table["id"].to_pylist()
    texts[7], texts[70] = "word", None
    odd = write_table(tmp_path / "odd.parquet", columns={"id": ids, "text": texts})
    optinfer.run(sections_job(unseen, tmp_path / "plain"))
    record = optinfer.run(sections_job(odd, tmp_path / "odd", sink__error_threshold=2))
    assert (record.rows_out, record.rows_quarantined) == (98, 2)
    assert quarantined(tmp_path / "odd") == {
        ids[7]: "ValueError: a description of one word says nothing",
        ids[70]: "AttributeError: 'NoneType' object has no attribute 'split'",
    }
    scored = {row["id"]: row for row in read_rows(tmp_path / "odd")}
    plain = {row["id"]: row for row in read_rows(tmp_path / "plain")}
    assert {name: row["section"] for name, row in scored.items()} == {name: plain[name]["section"] for name in scored}


@pytest.mark.parametrize("variant", ["torch-fp32", "onnx-fp32", "openvino-fp32"])
def test_a_class_may_take_several_inputs_of_a_width_of_its_own_and_give_several_outputs(
    make_job: MakeJob,
    write_module: WriteModule,
    write_table: WriteTable,
    weights: Path,
    tmp_path: Path,
    sink: Path,
    variant: str,
) -> None:
    write_module("padded_of_this_job", PADDED)
    texts = [f"row {'x' * (i % 7)}" for i in range(40)]
    texts[20] = None
    columns = {"id": [*map(str, range(40))], "text": texts, "weight": [i / 40 for i in range(40)]}
    source = write_table(tmp_path / "texts.parquet", columns=columns)
    job = make_job(
        source,
        sink,
        source__columns={"text": "text", "weight": "weight"},
        model={"path": str(weights), "family": "custom", "class": "padded_of_this_job:Padded"},
        variant=variant,
        gate={"metric": "r2", "min": 0.99, "sample_rows": 16},
        sink__error_threshold=1,
    )
    optinfer.run(job)
    assert quarantined(sink).keys() == {"20"}
    for row in read_rows(sink):
        letters = np.frombuffer(texts[int(row["id"])].encode(), np.uint8) / 255
        np.testing.assert_allclose(row["sum"], letters.sum() * int(row["id"]) / 40, rtol=1e-5)
        np.testing.assert_allclose(row["most"], letters.max(), rtol=1e-5)


def test_a_preprocess_that_takes_no_row_says_why(
    sections_job: Any, write_module: WriteModule, unseen: Path, sink: Path
) -> None:
    write_module("sections_of_this_job", SECTIONS.replace('return {"words"', 'return {"wrods"'))
    with pytest.raises(NoVariantError, match=r"no row that the baseline can score.*KeyError: 'words'"):
        optinfer.run(sections_job(unseen, sink))


@pytest.mark.parametrize("missing", ["roles", "inputs", "outputs", "schema", "load", "preprocess", "postprocess"])
def test_a_class_that_lacks_something_is_refused_by_name(
    write_module: WriteModule, weights: Path, missing: str
) -> None:
    code = SECTIONS.replace(f"    {missing} =", "    other =").replace(f"def {missing}(", "def other(")
    write_module("sections_of_this_job", code)
    settings = {"class": "sections_of_this_job:Sections", "arguments": {"sections": ["a"]}}
    with pytest.raises(ConfigError, match=f"sections_of_this_job:Sections has no {missing}; a custom class needs"):
        FAMILIES.get("custom").load(located(weights, "custom"), settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"class": "sections_of_this_job:Sektions"}, "has no class 'Sektions'; did you mean 'Sections'"),
        ({"class": "no_such_module:Sections"}, "there is no module no_such_module; start the job where it lies"),
        ({}, "family custom needs model.class: module:Class"),
        (
            {"class": "sections_of_this_job:Sections", "arguments": {"sektions": []}},
            "unexpected keyword argument 'sektions'",
        ),
        ({"class": "broken_of_this_job:Sections"}, "broken_of_this_job cannot be imported: SyntaxError"),
    ],
)
def test_a_class_that_cannot_be_made_ends_with_exit_code_2(
    run_cli: RunCli,
    write_job: Any,
    write_module: WriteModule,
    unseen: Path,
    sink: Path,
    weights: Path,
    given: dict[str, Any],
    message: str,
) -> None:
    write_module("sections_of_this_job", SECTIONS)
    write_module("broken_of_this_job", "class Sections")
    job = write_job(
        unseen,
        sink,
        source__columns={"description": "text"},
        model={"path": str(weights), "family": "custom", **given},
        variant="torch-fp32",
    )
    code, _, err = run_cli("run", job)
    assert code == 2
    assert message in " ".join(err.split())
    assert not sink.exists()


# What a class may get wrong: each is its own fault, and no row's.
@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            'return {"words": np.stack([bag(text) for text in texts])}',
            'return {"words": np.stack([bag(text) for text in texts[1:] or texts * 2])}',
            r"preprocess of sections_of_this_job:Sections gives \d+ entries of 'words' for \d+ rows; give one for each",
        ),
        (
            'return pa.table({"sure": shares.max(axis=1), "section": self.answers(outputs)})',
            'return pa.table({"sure": shares.max(axis=1)[:-1], "section": self.answers(outputs)[:-1]})',
            r"postprocess gives \d+ rows for the answers to \d+",
        ),
        ('"section": self.answers(outputs)', '"sections": self.answers(outputs)', "its schema has 'section' too"),
        (
            "return module(torch.sqrt(words))",
            "return torch.cat([module(torch.sqrt(words))] * 2)",
            r"the model gives \d+ rows of 'logits' for \d+ rows",
        ),
        # Wrong only in company, where a job scores: each row alone is right.
        (
            'return pa.table({"sure": shares.max(axis=1), "section": self.answers(outputs)})',
            'return pa.table({"sure": shares.max(axis=1)[::-1], "section": self.answers(outputs)[::-1]})',
            "gives other answers to the same rows than this model as optinfer reads it",
        ),
    ],
)
def test_a_class_that_is_wrong_scores_nothing(
    sections_job: Any, write_module: WriteModule, unseen: Path, sink: Path, before: str, after: str, message: str
) -> None:
    assert before in SECTIONS
    write_module("sections_of_this_job", SECTIONS.replace(before, after))
    with pytest.raises(OptinferError, match=message):
        optinfer.run(sections_job(unseen, sink))
    assert not list(sink.glob("*.parquet"))


def test_a_row_that_postprocess_cannot_finish_is_quarantined(
    sections_job: Any, write_module: WriteModule, unseen: Path, sink: Path
) -> None:
    strict = "if (shares.max(axis=1) > 0.9999).any():\n            raise ValueError('too sure to be true')\n        return pa.table"
    write_module("sections_of_this_job", SECTIONS.replace("return pa.table", strict))
    record = optinfer.run(sections_job(unseen, sink, sink__error_threshold=200))
    assert record.rows_quarantined > 0
    assert set(quarantined(sink).values()) == {"ValueError: too sure to be true"}
    assert record.rows_out + record.rows_quarantined == 200
    assert all(row["sure"] <= 0.9999 for row in read_rows(sink))


def test_the_class_itself_is_the_reference(sections_job: Any, unseen: Path, sink: Path) -> None:
    reference = optinfer.run(sections_job(unseen, sink)).certificate.reference
    assert (reference.library, reference.rows) == ("torch", 64)
    assert reference.largest_difference < 1e-5


@pytest.mark.parametrize(
    ("name", "agrees"), [("Lengths", True), ("Doubles", True), ("Growing", False), ("Tiny", False)]
)
def test_an_answer_is_the_same_whatever_the_class_saw_before(tmp_path: Path, name: str, agrees: bool) -> None:
    """What it remembers is another in each replica; and small numbers can be wrong, too."""
    from safetensors.torch import save_file

    from optinfer.inference.replica import ReplicaSettings
    from optinfer.optimization.baseline import answers_here

    save_file({}, tmp_path / "model.safetensors")
    spec = {"class": f"optinfer_custom:{name}"}
    model = located(tmp_path / "model.safetensors", "custom", **spec)
    settings = ReplicaSettings(family="custom", family_settings=spec, model=model, backend="torch", artifact=model)
    texts = pa.table({"text": [f"{'word ' * (i % 7)}number {i}" for i in range(40)]})
    reference = answers_here(settings, texts, print).reference
    assert reference.rows == 40
    assert reference.agrees is agrees
