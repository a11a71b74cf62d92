"""The package outside of its checkout: built as a wheel, installed into an environment of its own, and used there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.conftest import REPO, points

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of what it is made of: building leaves files behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(REPO / name, source / name)
    shutil.copytree(REPO / "optinfer", source / "optinfer", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "-w", str(out), str(source)], check=True, capture_output=True, text=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a fresh environment that finds its dependencies where this one has them.

    Of that other place only its packages are seen, not its `.pth` files, so no checkout that is installed there.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-index", "--ignore-installed", str(wheel)], check=True, capture_output=True, text=True)
    return folder


def in_it(installed: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program of that environment, which knows nothing of this checkout, in an empty folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "OPTINFER_HOME": str(folder / "home"),
        "PATH": f"{installed / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    program = [str(installed / "bin" / command[0]), *command[1:]]
    return subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)


def test_the_wheel_holds_every_module_and_the_mark_of_its_types(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if not name.partition("/")[0].endswith(".dist-info")}
    files = (file.relative_to(REPO) for file in (REPO / "optinfer").rglob("*") if file.is_file())
    assert held == {file.as_posix() for file in files if "__pycache__" not in file.parts}


def test_it_is_used_from_where_it_was_installed(installed: Path, tmp_path: Path) -> None:
    where = in_it(installed, tmp_path, "python", "-c", "import optinfer; print(optinfer.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(installed), where.stderr
    told = in_it(installed, tmp_path, "optinfer", "--version")
    assert (told.returncode, told.stdout.split()[-1]) == (0, PROJECT["version"]), told.stderr
    helped = in_it(installed, tmp_path, "optinfer", "--help")
    commands = {file.stem.replace("_", "-") for file in (REPO / "optinfer" / "cli").glob("[!_]*.py")}
    named = set(re.findall(r"^  ([a-z][a-z-]+)  ", helped.stdout, re.M))
    assert named == commands - {"options", "printing"}, helped.stderr
    plugins = in_it(installed, tmp_path, "optinfer", "variants", "--json")
    assert "onnx-fp32" in plugins.stdout, plugins.stderr


@pytest.mark.cluster
def test_a_job_runs_there_on_a_ray_of_its_own(installed: Path, tmp_path: Path) -> None:
    numbers = np.arange(400, dtype=np.float32).reshape(100, 4)
    columns = {"id": range(100), **{name: numbers[:, at] for at, name in enumerate("abcd")}}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    model = points(tmp_path / "m.onnx", 4)
    written = in_it(installed, tmp_path, "optinfer", "init", "--table", "t.parquet", "--model", str(model))
    assert written.returncode == 0, written.stderr
    settings = ("--set", "variant=onnx-fp32", "--set", "gate.sample_rows=16", "--address", "local", "--json")
    done = in_it(installed, tmp_path, "optinfer", "run", "job.yaml", *settings)
    assert done.returncode == 0, done.stderr
    job = yaml.safe_load((tmp_path / "job.yaml").read_text())
    assert json.loads(done.stdout)["rows_out"] == 100
    rows = pq.ParquetDataset(tmp_path / job["sink"]["path"]).read().sort_by("id")
    np.testing.assert_allclose(np.array(rows["y"].to_pylist()), numbers[:, :2])


def test_the_readmes_first_screen_names_the_extras() -> None:
    first = "\n".join((REPO / "README.md").read_text().splitlines()[:40])
    missing = [
        name for name in PROJECT["optional-dependencies"] if name not in ("bench", "dev") and f"`{name}`" not in first
    ]
    assert not missing
