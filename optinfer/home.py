"""Where optinfer keeps what outlives a job on this machine: built artifacts, journals, the default MLflow file.

One folder, `$OPTINFER_HOME` or `~/.optinfer`, always absolute: a Ray worker's working directory differs from the
driver's, so nothing here may depend on it.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def home() -> Path:
    return Path(os.environ.get("OPTINFER_HOME") or Path.home() / ".optinfer").expanduser().absolute()


def artifacts() -> Path:
    return home() / "artifacts"


def models() -> Path:
    return home() / "models"


def runs() -> Path:
    return home() / "runs"


def put(path: Path, content: bytes) -> None:
    """Write a file that is whole whenever it is there: a kill, or another job at the same, leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    aside.write_bytes(content)
    aside.replace(path)


def default_tracking_uri() -> str:
    """The MLflow store used when neither the job nor `MLFLOW_TRACKING_URI` names one."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"
