"""Images through a replica, as a job scores them, against transformers' own pipeline on the same bytes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from optinfer.errors import ConfigError
from optinfer.families import FAMILIES
from optinfer.families._image_reference import pipeline_of
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.system.quiet import muted
from tests.conformance.images import ARCHITECTURES, REFUSED, Architecture, images
from tests.conftest import located

FAMILY = "image-classification"


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    """Return a function that writes a model's folder."""

    def write(architecture: Architecture) -> Path:
        with muted():
            return architecture.write(tmp_path / "model")

    return write


def theirs(folder: Path) -> list[dict[str, float]]:
    """Return for each image the score of each label, as the library gives it."""
    from PIL import Image

    with muted():
        classify = pipeline_of(folder)
        return [{one["label"]: one["score"] for one in classify(Image.open(io.BytesIO(data)))} for _, data in images()]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scores_are_those_of_transformers(name: str, folder: Any) -> None:
    model = located(folder(ARCHITECTURES[name]), FAMILY)
    expected = theirs(Path(model.path))
    labels = len(expected[0])
    settings = ReplicaSettings(
        family=FAMILY,
        family_settings={"top_k": labels},
        model=model,
        backend="torch",
        artifact=model,
        threads=1,
    )
    replica = Replica(settings)
    rows = pa.table({"image": [data for _, data in images()]})
    scored = replica.score(rows)
    assert {images()[i][0]: why for i, why in scored.rejected.items()} == {}
    table = scored.added
    assert np.std([max(row.values()) for row in expected]) > 1e-3, "these images are all the same to the model"
    for (what, _), row, scores in zip(images(), table.to_pylist(), expected, strict=True):
        ours = dict(zip(row["labels"], row["scores"], strict=True))
        assert ours == pytest.approx(scores, abs=1e-5, rel=1e-5), what
    reference = replica.family.reference(rows.slice(0, 8), table.slice(0, 8))
    assert reference.agrees, reference.note
    assert (reference.library, reference.rows) == ("transformers", 8)


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_images_of_one_size_is_refused(name: str, folder: Any) -> None:
    architecture, message = REFUSED[name]
    model = located(folder(architecture), FAMILY)
    with pytest.raises(ConfigError, match=message):
        FAMILIES.get(FAMILY).load(model, {})
