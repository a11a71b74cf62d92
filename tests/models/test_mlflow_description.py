"""An MLflow model's description is a file of somebody else's: read within bounds, and kept to its own folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from optinfer.errors import ConfigError
from optinfer.models.source import _flavor


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("flavors: {onnx: {data: ../../elsewhere/model.onnx}}", "lies outside of the model"),
        ("flavors: {onnx: {data: /etc/passwd}}", "lies outside of the model"),
        ("flavors: {onnx: [1]}", "is no description of an MLflow model"),
        ("a: 1", "is no description of an MLflow model"),
        ("a: &a [*a]", "an alias stands for a value that holds it"),
    ],
)
def test_a_description_that_is_none_or_leads_out_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text(text)
    with pytest.raises(ConfigError, match=says):
        _flavor(tmp_path / "model")
