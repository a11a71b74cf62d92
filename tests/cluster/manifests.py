"""What the tests of `cluster/` share: programs that may be missing, and manifests as kustomize makes them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPO

CLUSTER = REPO / "cluster"
KUBERAY = CLUSTER / "kuberay"
OVERLAYS = sorted(folder.name for folder in (KUBERAY / "overlays").iterdir())
RUNS = sorted(folder.name for folder in (KUBERAY / "runs").iterdir())

Manifest = dict[str, Any]


def program(*names: str) -> str:
    """Return the path of the first of these programs that is here, in the environment first; or skip."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for name in names:
        if found := shutil.which(name, path=path):
            return found
    pytest.skip(f"none of these programs is here: {', '.join(names)}")


@cache
def kustomized(folder: Path) -> tuple[Manifest, ...]:
    """Return the manifests that `kubectl apply -k` would send."""
    tool = program("kubectl", "kustomize")
    command = [tool, "kustomize"] if Path(tool).name == "kubectl" else [tool, "build"]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


@cache
def run_on(run: str, overlay: str, copy: Path) -> tuple[Manifest, ...]:
    """Return the manifests of a run on an overlay's nodes: the line is changed that its file says may be."""
    shutil.copytree(KUBERAY, copy)
    file = copy / "runs" / run / "kustomization.yaml"
    assert file.read_text().count("../../overlays/cpu ") == 1
    file.write_text(file.read_text().replace("../../overlays/cpu ", f"../../overlays/{overlay} "))
    return kustomized(file.parent)


def pod_templates(manifest: Manifest, name: str = "") -> Iterator[tuple[str, Manifest]]:
    """Yield each pod template anywhere in a manifest, with where it is."""
    where = name or f"{manifest['kind']}/{manifest['metadata']['name']}"
    for key, value in manifest.items():
        if key in ("template", "submitterPodTemplate") and "containers" in value.get("spec", {}):
            yield f"{where}.{key}", value
        elif isinstance(value, dict):
            yield from pod_templates(value, f"{where}.{key}")
        elif isinstance(value, list):
            for number, one in enumerate(value):
                if isinstance(one, dict):
                    yield from pod_templates(one, f"{where}.{key}[{number}]")
