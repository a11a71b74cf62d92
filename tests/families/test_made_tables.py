"""Tables that `optinfer table` made of files are read by jobs at once, and answered as by the models' own libraries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

import optinfer
from optinfer.commands.make_table import make_table
from tests.conftest import MODEL, MakeJob, RunCli, located, read_rows
from tests.families.conftest import shipped

pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.mark.slow
def test_a_folder_of_photos_is_classified(
    photos: dict[str, Path], efficientnet: Path, make_job: MakeJob, sink: Path, tmp_path: Path
) -> None:
    for label, name in {"daisy": "flower", "palace": "china", "espresso": "coffee", "missile": "rocket"}.items():
        (tmp_path / "photos" / label).mkdir(parents=True)
        (tmp_path / "photos" / label / photos[name].name).write_bytes(photos[name].read_bytes())
    make_table(str(tmp_path / "photos"), str(tmp_path / "photos.parquet"))
    job = make_job(
        tmp_path / "photos.parquet",
        sink,
        model={"path": str(efficientnet), "family": "image-classification"},
        variant="onnx-fp32",
        source__columns={"image": "image"},
        sink__columns=["id", "label"],
        gate={"min": 0.9, "sample_rows": 8},
    )
    with pytest.raises(optinfer.OptinferError, match=r"sink\.columns \['label'\]"):
        optinfer.run(job)
    kept = job.model_copy(update={"sink": job.sink.model_copy(update={"columns": ("id",)})})
    assert optinfer.run(kept).rows_out == 4
    assert {row["id"].partition("/")[0] for row in read_rows(sink)} == {row["label"] for row in read_rows(sink)}


@pytest.mark.slow
def test_a_folder_of_texts_is_embedded(make_job: MakeJob, sink: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    names = [f"descr/{name}.rst" for name in ("breast_cancer", "diabetes", "iris", "wine_data")]
    (tmp_path / "texts").mkdir()
    for name in names:
        text = shipped("sklearn", "datasets", name).read_text()
        (tmp_path / "texts" / f"{Path(name).stem}.txt").write_text(text)
    make_table(str(tmp_path / "texts"), str(tmp_path / "texts.parquet"))
    gate = {"min": 0.99, "sample_rows": 8}
    job = make_job(tmp_path / "texts.parquet", sink, model__path=MODEL, variant="torch-fp32", gate=gate)
    assert optinfer.run(job).rows_out == 4
    rows = read_rows(sink)
    texts = pq.read_table(tmp_path / "texts.parquet")
    assert [row["id"] for row in rows] == texts["id"].to_pylist()
    library = SentenceTransformer(located(MODEL).path, device="cpu")
    expected = library.encode(texts["text"].to_pylist(), show_progress_bar=False)
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "gate"),
    [(("daisy", "espresso", "missile"), {"label": "label", "metric": "accuracy"}), (("mine", "yours", "theirs"), None)],
)
def test_folders_named_as_the_models_classes_judge_its_variants(
    photos: dict[str, Path],
    efficientnet: Path,
    run_cli: RunCli,
    tmp_path: Path,
    labels: tuple[str, ...],
    gate: dict[str, str] | None,
) -> None:
    for label, name in zip(labels, ("flower", "coffee", "rocket"), strict=True):
        (tmp_path / "photos" / label).mkdir(parents=True)
        (tmp_path / "photos" / label / photos[name].name).write_bytes(photos[name].read_bytes())
    make_table(str(tmp_path / "photos"), str(tmp_path / "photos.parquet"))
    written = ("-o", tmp_path / "job.yaml", "--table", tmp_path / "photos.parquet", "--model", efficientnet)
    code, _, err = run_cli("init", *written)
    assert code == 0, err
    text = (tmp_path / "job.yaml").read_text()
    job = yaml.safe_load(text)
    assert (job["model"]["family"], job.get("gate")) == ("image-classification", gate)
    assert "(tensor would take it, too)" in text
    assert (job["source"]["columns"], job["sink"]["columns"]) == ({"image": "image"}, ["id"])
    assert run_cli("plan", tmp_path / "job.yaml")[0] == 0
