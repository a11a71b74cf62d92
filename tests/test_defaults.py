"""The job as the README gives it, with nothing set that a user may leave out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

import optinfer
from optinfer.config import JobConfig
from optinfer.job_file import parse_job
from tests.commands.test_init_to_run import Make, efficientnet, magika, require
from tests.conftest import MODEL, REPO, WriteTable, read_rows


def of_the_readme() -> dict[str, Any]:
    """Return the README's job as plain values."""
    text = (REPO / "README.md").read_text()
    block = text[text.index("name: embed-packages") :].partition("```")[0]
    raw: dict[str, Any] = yaml.safe_load(block)
    return raw


def required() -> list[str]:
    return [name for name, field in JobConfig.model_fields.items() if field.is_required()]


@pytest.mark.usefixtures("without_ray", "trials_here")
@pytest.mark.parametrize("dropped", ["optional keys", "sink.columns alone"])
def test_the_readmes_job_runs_and_answers_as_sentence_transformers_does(
    tmp_path: Path, write_table: WriteTable, dropped: str
) -> None:
    from sentence_transformers import SentenceTransformer

    from tests.conftest import located

    rows = pq.read_table(REPO / "jobs" / "data" / "packages.parquet").slice(0, 48)
    columns = {"id": rows["id"], "text": rows["text"]}
    raw = of_the_readme()
    if dropped == "optional keys":
        raw = {name: value for name, value in raw.items() if name in required()}
    del raw["sink"]["columns"]
    raw["source"]["path"] = str(write_table(tmp_path / "reviews" / "a.parquet", columns=columns).parent)
    raw["model"]["path"], raw["variant"] = MODEL, "torch-fp32"
    raw["sink"]["path"] = str(tmp_path / "out")
    record = optinfer.run(parse_job(raw))
    assert (record.rows_out, record.rows_quarantined) == (48, 0)
    found = read_rows(tmp_path / "out")
    assert list(found[0]) == ["embedding"]
    expected = SentenceTransformer(located().path, device="cpu").encode(rows["text"].to_pylist())
    np.testing.assert_allclose([row["embedding"] for row in found], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("without_ray", "trials_here")
@pytest.mark.parametrize(("make", "columns"), [(magika, {"bytes": "head"}), (efficientnet, {"image": "image"})])
def test_so_do_jobs_of_numbers_and_images(
    make: Make, columns: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = make()
    family = "tensor" if make is magika else "image-classification"
    raw = {
        "name": "bare",
        "source": {"path": "table.parquet", "columns": columns},
        "model": {"path": str(given.model), "family": family},
        "variant": "onnx-fp32",
        "sink": {"path": "out"},
    }
    assert set(raw) == {*required(), "variant"}
    record = optinfer.run(parse_job(raw))
    found = read_rows("out")
    assert (record.rows_out, record.rows_quarantined) == (len(pq.read_table("table.parquet")), 0)
    assert given.ids not in found[0]
    require(found, given)
