"""The shipped entry point under the real `ray job submit`, against a head started here."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.conftest import REPO, free_ports, jobs_api_answers, read_rows, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy what a user submits: the package, the jobs, and the lists of what is not uploaded."""
    copy = tmp_path / "checkout"
    for folder in ("optinfer", "jobs"):
        shutil.copytree(REPO / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (".gitignore", ".rayignore", "pyproject.toml"):
        shutil.copy(REPO / file, copy / file)
    return copy


@pytest.fixture
def cluster(environment: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Start a Ray head with token authentication; yield the environment that reaches it."""
    port, dashboard, agent = free_ports(3)
    # Ray's sockets live in its temporary folder, and a socket's path may not be longer than 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        reach = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        }
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1",
            f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
            "--num-cpus=2", f"--object-store-memory={256 * 2**20}", f"--temp-dir={folder}", "--disable-usage-stats",
        ]  # fmt: skip
        with open(Path(folder, "head.log"), "w") as log:
            head = subprocess.Popen(command, env=reach, stdout=log, stderr=subprocess.STDOUT, cwd=folder)

        def ready() -> bool:
            assert head.poll() is None, Path(folder, "head.log").read_text()
            return jobs_api_answers(reach["RAY_API_SERVER_ADDRESS"])

        try:
            wait_until(ready, "a Ray dashboard")
            yield reach
        finally:
            # Ray's own orderly end takes half a minute.
            ours = [*psutil.Process(head.pid).children(recursive=True), head]
            for process in ours:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            head.wait(timeout=60)


def submit(checkout: Path, cluster: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", ".", "--"]
    entry = [sys.executable, "jobs/score.py", "jobs/embed_packages.yaml", *arguments]
    return subprocess.run(
        [*command, *entry], cwd=checkout, env=cluster, capture_output=True, text=True, timeout=240, check=False
    )


def test_a_submitted_job_scores_on_the_cluster(checkout: Path, cluster: dict[str, str], tmp_path: Path) -> None:
    sink = tmp_path / "out"
    changes = {"variant": "torch-fp32", "sink.path": sink, "source.limit": 48, "source.fragment_rows": 16,
               "gate.sample_rows": 8, "batching.max_batch_size": 8}  # fmt: skip
    done = submit(checkout, cluster, *(text for key, value in changes.items() for text in ("--set", f"{key}={value}")))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "48 of 48 rows scored" in done.stdout
    source = pq.read_table(REPO / "jobs" / "data" / "packages.parquet")
    assert [row["id"] for row in read_rows(sink)] == source["id"].to_pylist()[:48]

    refused = submit(checkout, cluster, "--set", "source.path=/nowhere.parquet")
    assert refused.returncode != 0
    assert "/nowhere.parquet does not exist" in refused.stdout
