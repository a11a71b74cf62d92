"""A real MLflow server on loopback, that a test starts, kills and starts again; and what a store of it holds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import wait_until


class MlflowServer:
    """One server over a SQLite file, at a port of its own; the folder outlives its processes."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder, self._port = folder, port
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder}/server.db"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        environ = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with open(self._folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._folder, env=environ, start_new_session=True
            )
        wait_until(self._answers, f"MLflow at {self.url}, see {self._folder}/server.log", 300.0)

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[MlflowServer]:
    server = MlflowServer(folder, port)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def runs_at(uri: str, experiment: str = "tests") -> list[dict[str, Any]]:
    """Return all runs of an experiment with everything that is known of them, but for what MLflow made up itself."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    names = {run.info.run_id: run.info.run_name for run in found}
    return sorted((_run(client, run, names) for run in found), key=lambda run: str(run["tags"]))


def _run(client: Any, run: Any, names: dict[str, str]) -> dict[str, Any]:
    run_id = run.info.run_id
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
    artifacts = sorted(entry.path for entry in client.list_artifacts(run_id))
    return {
        "name": run.info.run_name,
        "below": names.get(run.data.tags.get("mlflow.parentRunId", "")),
        "times": (run.info.start_time, run.info.end_time),
        "status": run.info.status,
        "params": run.data.params,
        "tags": tags,
        "metrics": {
            key: [(m.timestamp, m.step, m.value) for m in client.get_metric_history(run_id, key)]
            for key in sorted(run.data.metrics)
        },
        "inputs": sorted((d.dataset.name, d.dataset.digest, d.tags[0].value) for d in run.inputs.dataset_inputs),
        "artifacts": {path: Path(client.download_artifacts(run_id, path)).read_bytes() for path in artifacts},
    }
