"""Turns a proved variant into an MLflow model: `mlflow.pyfunc.load_model` scores with it, no job, no Ray.

The model carries everything: the artifact, the user's own files, the replica's settings and this package's code.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from optinfer import plugins
from optinfer.backends import BACKENDS
from optinfer.config import TrackingConfig
from optinfer.errors import OptinferError, without_secrets
from optinfer.families import FAMILIES
from optinfer.models.artifact import Artifact
from optinfer.optimization.selection import Prepared
from optinfer.optimization.techniques import TECHNIQUES
from optinfer.records.comparison import Registered
from optinfer.system import home
from optinfer.system.machine import installed
from optinfer.system.quiet import muted
from optinfer.tracking.mlflow_store import open_experiment

_PACKAGE = Path(__file__).resolve().parents[1]
_ALWAYS = (
    "filelock", "fsspec", "mlflow", "numpy", "onnx", "pandas", "pillow", "psutil", "pyarrow", "pydantic", "pyyaml",
    "safetensors", "tokenizers",
)  # fmt: skip
_SECONDS = 600.0


def register_if_possible(name: str, prepared: Prepared, rows: pa.Table, tracking: TrackingConfig) -> Registered:
    """Do what `register` does; what fails is said in what it returns: what took hours is still worth its table."""
    uri = tracking.uri or home.default_tracking_uri()
    try:
        return register(name, prepared, rows, uri, tracking.experiment)
    except Exception as error:
        return Registered(name=name, error=without_secrets(uri, str(error)) or type(error).__name__)


def register(name: str, prepared: Prepared, rows: pa.Table, uri: str, experiment: str) -> Registered:
    """Log the variant as a new version of the MLflow model `name` and load it back.

    Args:
        rows: a few rows, a column per role: they become the signature's example, and are scored by what was logged.
        uri: MLflow's store.

    Raises:
        OptinferError: what was logged does not load, or answers otherwise.
    """
    import mlflow

    from optinfer.inference.replica import Replica

    replica = Replica(prepared.settings)
    scored = replica.score(rows)
    rows, expected = rows.take(pa.array(scored.kept)), scored.added.to_pandas()
    mlflow.set_tracking_uri(uri)
    with tempfile.TemporaryDirectory(prefix="optinfer-register-") as folder, muted():
        packed = Path(folder, "packed")
        packed.mkdir()
        _pack(prepared, packed)
        with mlflow.start_run(experiment_id=open_experiment(uri, experiment), run_name=f"register {name}") as run:
            mlflow.log_params(prepared.params)
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).with_name("registered_model.py")),
                artifacts={"optinfer": str(packed)},
                code_paths=[str(_PACKAGE), *_own_code(prepared)],
                signature=mlflow.models.infer_signature(rows.to_pandas(), expected),
                pip_requirements=_requirements(prepared, replica.family.opened_by),
            )
        _require_the_same(logged.model_uri, uri, rows, expected, Path(folder))
        number = mlflow.register_model(logged.model_uri, name).version
    return Registered(name=name, version=number, uri=f"models:/{name}/{number}", run_id=run.info.run_id)


# What a client does with the model, in a process that sees neither this one's modules nor the working directory.
_CLIENT = """
import sys, mlflow, pyarrow as pa, pyarrow.parquet as pq
mlflow.set_tracking_uri(sys.argv[1])
answers = mlflow.pyfunc.load_model(sys.argv[2]).predict(pq.read_table(sys.argv[3]).to_pandas())
pq.write_table(pa.Table.from_pandas(answers, preserve_index=False), sys.argv[4])
"""


def _require_the_same(model: str, uri: str, rows: pa.Table, expected: Any, folder: Path) -> None:
    given, answers = folder / "rows.parquet", folder / "answers.parquet"
    pq.write_table(rows, given)
    command = [sys.executable, "-P", "-c", _CLIENT, uri, model, str(given), str(answers)]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS)
    if ended.returncode:
        raise OptinferError(f"what was logged cannot be loaded: {without_secrets(uri, ended.stderr.strip()[-200:])}")
    if not pq.read_table(answers).equals(pa.Table.from_pandas(expected, preserve_index=False)):
        raise OptinferError("what was logged answers otherwise than the variant that was proved; nothing is registered")


def _own_code(prepared: Prepared) -> list[str]:
    """Return the file of the job's own class, or the package that it lies in."""
    settings = prepared.settings
    spec = FAMILIES.get(settings.family).settings.model_validate(settings.family_settings).own_code
    if not spec:
        return []
    file, parts = plugins.code_of(spec), spec.partition(":")[0].split(".")
    return [str(file if len(parts) == 1 else file.parents[len(parts) - (1 if file.name == "__init__.py" else 2)])]


def _pack(prepared: Prepared, folder: Path) -> None:
    """Copy what the replica reads, and write its settings with paths relative to `folder`."""
    settings = prepared.settings
    model = _copied(settings.model, folder, "model")
    same = settings.artifact.path == settings.model.path
    artifact = replace(settings.artifact, path=model.path) if same else _copied(settings.artifact, folder, "artifact")
    conversions = []
    for i, conversion in enumerate(artifact.conversions):
        target = f"conversion-{i}"
        shutil.copytree(conversion["folder"], folder / target)
        conversions.append({**conversion, "folder": target})
    artifact = replace(artifact, conversions=tuple(conversions))
    packed = replace(settings, model=model, artifact=artifact, canary=None, canaries=None)
    (folder / "settings.json").write_text(json.dumps(asdict(packed), indent=1))


def _copied(artifact: Artifact, folder: Path, name: str) -> Artifact:
    for file in artifact.files:
        target = folder / name / file.relative_to(artifact.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target)
    return replace(artifact, path=name)


def _requirements(prepared: Prepared, opened_by: Sequence[str]) -> list[str]:
    """Pin what scoring imports, at the versions it was proved with."""
    backend = BACKENDS.get(prepared.settings.backend)
    techniques = [TECHNIQUES.get(c["technique"]) for c in prepared.artifact.conversions]
    modules = {*backend.requires, *(module for technique in techniques for module in technique.requires)}
    pinned = {
        name: found for name in (*_ALWAYS, *opened_by, *sorted(modules)) if (found := installed(name)) != "unknown"
    }
    return [f"{name}=={number}" for name, number in pinned.items()]
