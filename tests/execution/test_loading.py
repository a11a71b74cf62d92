"""A replica's model loads aside; whoever waits for it is not kept from ending."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from optinfer.errors import LoadError
from optinfer.execution.loading import Loading
from optinfer.inference.replica import Replica, ReplicaSettings
from tests.conftest import REPO, located, wait_until

# A model that never comes, as of a cluster that ended while it was fetched.
NEVER = """
import threading
from optinfer.execution.loading import Loading
from optinfer.inference.replica import ReplicaSettings
from optinfer.models.artifact import Artifact

begun = threading.Event()

def load(settings):
    begun.set()
    threading.Event().wait()

model = Artifact(path=".", format="onnx", precision="fp32", key="")
Loading(load, ReplicaSettings(family="tensor", model=model, backend="onnxruntime", artifact=model, variant="v"))
assert begun.wait(60)
print("ends")
"""


def test_a_process_ends_whose_model_never_comes() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", NEVER],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout) == (0, "ends\n"), ended.stderr


def test_a_model_that_hangs_while_it_loads_is_given_up_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    spec = {"class": "optinfer_custom:Hangs", "arguments": {"begun": str(tmp_path / "begun")}}
    model = located(tmp_path, "custom", **spec)
    settings = ReplicaSettings(
        family="custom", family_settings=spec, model=model, backend="torch", artifact=model, variant="torch-fp32"
    )
    said = rf"node {socket.gethostname()} does not come to the end of loading torch-fp32: nothing within 0\.5 s"
    loading = Loading(Replica, settings, most_seconds=0.5, turn=threading.Lock())  # it hangs for good
    for _ in range(2):
        with pytest.raises(LoadError, match=said):
            _ = loading.engine
    wait_until((tmp_path / "begun").exists, "it hangs where a model loads, and nowhere before")


def test_models_of_one_process_load_one_after_another() -> None:
    """Two threads that import transformers at once: one of them may get half of it."""
    model = located()
    settings = ReplicaSettings(family="text-embedding", model=model, backend="fake", artifact=model)
    inside, most = threading.Semaphore(1), []

    def load(given: ReplicaSettings) -> Replica:
        most.append(inside.acquire(blocking=False))
        try:
            return Replica(given)
        finally:
            inside.release()

    for loading in [Loading(load, settings) for _ in range(4)]:
        _ = loading.engine
    assert most == [True] * 4
