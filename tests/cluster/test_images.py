"""The images are pinned, small and not root's; what their install lines name exists."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.cluster.manifests import CLUSTER, program
from tests.conftest import REPO

FILES = sorted((CLUSTER / "image").glob("Dockerfile.*"))
BASE = re.compile(r"python:3\.11\.\d+-slim-bookworm")


@pytest.fixture(params=FILES, ids=lambda file: file.suffix[1:])
def file(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def steps(file: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with what follows them, comments left out and lines joined."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(name.upper(), rest.strip()) for name, _, rest in (line.partition(" ") for line in joined)]


def test_hadolint_has_nothing_to_say(file: Path) -> None:
    done = subprocess.run([program("hadolint"), str(file)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_starts_from_one_exact_image_of_the_python_of_all_nodes(steps: list[tuple[str, str]]) -> None:
    """Ray refuses nodes whose Python differs in its minor version."""
    bases = {rest.split()[0] for name, rest in steps if name == "FROM"}
    assert len(bases) == 1
    assert BASE.fullmatch(bases.pop())


def test_all_images_have_the_same_python() -> None:
    assert len({found for file in FILES for found in BASE.findall(file.read_text())}) == 1


def test_it_does_not_run_as_root(steps: list[tuple[str, str]]) -> None:
    users = [rest for name, rest in steps if name == "USER"]
    assert users[-1] == "1000:1000"
    last = max(number for number, step in enumerate(steps) if step[0] == "USER")
    assert not [step for step in steps[last:] if step[0] in ("RUN", "COPY", "ADD")]


def test_packages_are_pinned_and_nothing_of_building_is_left(steps: list[tuple[str, str]]) -> None:
    installs = [one for name, rest in steps if name == "RUN" for one in re.findall(r"pip install[^&;]*", rest)]
    assert installs
    assert all("-c constraints.txt" in one or "--no-deps" in one for one in installs)
    assert all("--no-cache-dir" in one for one in installs)
    stages = [number for number, step in enumerate(steps) if step[0] == "FROM"]
    assert not [step for step in steps[stages[-1] :] if "pip install" in step[1]]
    for packages in re.findall(
        r"apt-get install --yes --no-install-recommends ([^&]+)", " ".join(rest for _, rest in steps)
    ):
        assert all("=" in package for package in packages.split())


def test_extras_and_versions_are_the_project_s(steps: list[tuple[str, str]]) -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    (extras,) = [rest.removeprefix("EXTRAS=") for name, rest in steps if name == "ARG" and rest.startswith("EXTRAS=")]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])


def test_tensorrt_is_one_that_onnxruntime_links() -> None:
    """onnxruntime-gpu 1.31 loads libnvinfer.so.10."""
    version = re.search(r"tensorrt-cu13==(\d+)\.", (CLUSTER / "image" / "Dockerfile.cuda").read_text())
    assert version
    assert version[1] == "10"


def test_what_is_copied_exists_and_is_let_in(steps: list[tuple[str, str]]) -> None:
    let_in = [
        line[1:].rstrip("/") for line in (REPO / ".dockerignore").read_text().splitlines() if line.startswith("!")
    ]
    for name, rest in steps:
        if name != "COPY" or rest.startswith("--from"):
            continue
        *sources, _ = rest.split()
        for source in sources:
            top = source.partition("/")[0].replace("[s]", "s")
            assert any(fnmatch.fnmatch(top, pattern) for pattern in let_in), source
            assert (REPO / top).exists() or "[" in source, source
