"""What a built variant is on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from optinfer.models.artifact import RECORD, Artifact


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    found = Artifact(path=str(tmp_path), format="onnx", precision="fp32", key="k")
    found.save(tmp_path)
    return found


def test_an_artifact_is_read_as_it_was_saved(artifact: Artifact) -> None:
    assert Artifact.read(Path(artifact.path)) == artifact


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe"])
def test_a_record_that_is_garbage_makes_the_artifact_be_built_again(
    artifact: Artifact, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    Path(artifact.path, RECORD).write_bytes(content)
    assert Artifact.read(Path(artifact.path)) is None
    assert "is damaged" in caplog.text
