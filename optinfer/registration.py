"""Turns a proved variant into an MLflow model: `mlflow.pyfunc.load_model` scores with it, no job, no Ray.

The model carries everything: the artifact, the user's own files, the replica's settings and this package's code.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from optinfer import plugins
from optinfer.artifact import Artifact
from optinfer.errors import OptinferError
from optinfer.machine import installed
from optinfer.optimization.selection import Prepared
from optinfer.quiet import muted
from optinfer.tracking.mlflow_tracker import open_experiment

_PACKAGE = Path(__file__).parent
_ALWAYS = ("mlflow", "numpy", "pandas", "pyarrow", "pydantic", "pyyaml", "filelock", "tokenizers", "psutil")


def register(name: str, prepared: Prepared, rows: pa.Table, uri: str, experiment: str) -> dict[str, Any]:
    """Log the variant as a new version of the MLflow model `name` and load it back.

    Args:
        rows: a few rows, a column per role: they become the signature's example, and are scored by what was logged.
        uri: MLflow's store.

    Returns:
        `name`, `version`, `uri` and `run_id`.

    Raises:
        OptinferError: what was logged does not load, or answers otherwise.
    """
    import mlflow

    from optinfer.inference.replica import Replica

    replica = Replica(prepared.settings)
    expected = replica.as_table(replica.score(rows)).to_pandas()
    mlflow.set_tracking_uri(uri)
    with tempfile.TemporaryDirectory(prefix="optinfer-register-") as folder, muted():
        _pack(prepared, Path(folder))
        with mlflow.start_run(experiment_id=open_experiment(uri, experiment), run_name=f"register {name}") as run:
            mlflow.log_params(prepared.params)
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(_PACKAGE / "registered_model.py"),
                artifacts={"optinfer": folder},
                code_paths=[str(_PACKAGE)],
                signature=mlflow.models.infer_signature(rows.to_pandas(), expected),
                pip_requirements=_requirements(prepared),
                registered_model_name=name,
            )
        loaded = mlflow.pyfunc.load_model(logged.model_uri)
        answers = pa.Table.from_pandas(loaded.predict(rows.to_pandas()), preserve_index=False)
    if not answers.equals(pa.Table.from_pandas(expected, preserve_index=False)):
        raise OptinferError(f"the model logged as {name} answers otherwise than the variant that was proved")
    number = logged.registered_model_version
    return {"name": name, "version": number, "uri": f"models:/{name}/{number}", "run_id": run.info.run_id}


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
    packed = replace(settings, model=model, artifact=replace(artifact, conversions=tuple(conversions)))
    (folder / "settings.json").write_text(json.dumps(asdict(packed), indent=1))


def _copied(artifact: Artifact, folder: Path, name: str) -> Artifact:
    for file in artifact.files:
        target = folder / name / file.relative_to(artifact.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target)
    return replace(artifact, path=name)


def _requirements(prepared: Prepared) -> list[str]:
    """Pin what scoring imports, at the versions it was proved with."""
    backend = plugins.load("backends", prepared.settings.backend)
    pinned = {name: version(name) for name in _ALWAYS}
    pinned |= {module: installed(module) for module in backend.REQUIRES}
    return [f"{name}=={number}" for name, number in pinned.items()]
