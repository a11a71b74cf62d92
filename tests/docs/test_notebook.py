"""docs/notebook.ipynb runs from its first cell to its last, in a kernel of its own; as a reader's Jupyter runs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPO

NOTEBOOK = REPO / "docs" / "notebook.ipynb"


@pytest.fixture
def notebook() -> Any:
    nbformat = pytest.importorskip("nbformat", reason="the extra `dev` is not installed")
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.mark.slow
def test_it_runs_whole_and_shows_what_it_says(notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", f"{REPO}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / "home"))
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    here = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=280, kernel_name="python3", resources=here).execute()

    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    tables = [output.data["text/html"] for output in shown if "text/html" in output.get("data", {})]
    assert any("job/rows" not in table and "rows_out" in table for table in tables), "a record is shown as a table"
    red = [output.text for output in shown if output.output_type == "stream" and output.name == "stderr"]
    assert red == []
    assert run_in_mlflow(tmp_path / "home").data.tags["mlflow.source.type"] == "NOTEBOOK"


def run_in_mlflow(home: Path) -> Any:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")
    experiment = client.get_experiment_by_name("optinfer")
    (run,) = client.search_runs([experiment.experiment_id], "tags.`optinfer.fingerprint` LIKE '%'")
    return run


def test_it_is_kept_as_it_is_before_it_runs(notebook: Any) -> None:
    """So a change of it can be read, and nothing of the machine that it ran on is in it."""
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert sys.platform not in NOTEBOOK.read_text()
