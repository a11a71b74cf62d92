"""A replica's model loads aside; whoever waits for it is not kept from ending."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.conftest import REPO

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
