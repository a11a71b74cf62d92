"""What other nodes are, on this one: Python under a kernel that tells of another CPU, or beside another package.

`python -m tests.other_nodes FILE` scores as such a node would: FILE holds a pickled replica and the rows, what comes of
them is printed as JSON.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from optinfer.execution.loading import Loading
from optinfer.inference.replica import Replica
from tests.conftest import REPO


def cpu_without(folder: Path, *features: str) -> list[str]:
    """Return what to put before a command so that the kernel tells it of a CPU without these features."""
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    told = folder / "cpuinfo"
    text = Path("/proc/cpuinfo").read_text()
    told.write_text("\n".join(" ".join(w for w in line.split(" ") if w not in features) for line in text.split("\n")))
    mount = f'mount --bind {told} /proc/cpuinfo && exec "$@"'
    before = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount in a namespace of their own")
    return before


def without_folders(*folders: Path) -> list[str]:
    """Return what to put before a command so that these folders are empty for it, on a disk of its own."""
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    mounts = " && ".join(f"mount -t tmpfs none '{folder}'" for folder in folders)
    before = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh"]
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount in a namespace of their own")
    return before


def with_package(folder: Path, name: str, version: str) -> dict[str, str]:
    """Return the environment of a process in which a package is installed in another version, as far as it is told."""
    described = folder / f"{name}-{version}.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}


def score_there(
    folder: Path, settings: Any, rows: Any, before: Sequence[str] = (), environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """Return what a replica in another process says of the rows: `outputs`, or the `error` that it raised."""
    given = folder / "given.pickle"
    given.write_bytes(pickle.dumps((settings, rows)))
    command = [*before, sys.executable, "-m", __name__, str(given)]
    environment = environment or {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    said: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return said


def main(file: str) -> None:
    settings, rows = pickle.loads(Path(file).read_bytes())
    try:
        scored = Loading(Replica, settings).engine.score(rows)
        print(json.dumps({"outputs": {name: values.tolist() for name, values in scored.outputs.items()}}))
    except Exception as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))


if __name__ == "__main__":
    main(sys.argv[1])
