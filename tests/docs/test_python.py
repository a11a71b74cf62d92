"""docs/python.md does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import optinfer
from tests.conftest import REPO, WriteTable, points

DOCUMENT = (REPO / "docs" / "python.md").read_text()


@pytest.fixture
def folder(tmp_path: Path, write_table: WriteTable) -> Path:
    columns = {"id": range(100), **{name: np.arange(100, dtype=np.float32) for name in "abcd"}}
    write_table(tmp_path / "points.parquet", columns=columns)
    points(tmp_path / "model.onnx", 4)
    return tmp_path


@pytest.mark.slow
def test_the_blocks_of_the_document_run_one_after_another(folder: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.M | re.S)
    environment = {**os.environ, "PYTHONPATH": f"{REPO}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert len(blocks) == 4
    noise = [line for line in done.stderr.splitlines() if "rows/s" not in line]  # progress, where the machine is busy
    assert not noise


def test_the_table_of_functions_names_those_that_there_are() -> None:
    import inspect

    for name, arguments in re.findall(r"^\| `(\w+)\((.*?)\)` \|", DOCUMENT, re.M):
        assert [*inspect.signature(getattr(optinfer, name)).parameters] == arguments.split(", "), name
    named = set(re.findall(r"^\| `(\w+)\(", DOCUMENT, re.M))
    assert named == {name for name in optinfer.__all__ if inspect.isfunction(getattr(optinfer, name))}
