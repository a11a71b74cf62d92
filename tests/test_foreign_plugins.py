"""Plugins of other packages: what identifies their code, and what is said of one that cannot be imported."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from optinfer.backends import BACKENDS, Backend
from optinfer.errors import ConfigError
from optinfer.plugins import Kind
from optinfer.records.binding import Bound
from tests.conftest import REPO


def install(folder: Path, code: str, version: str = "1") -> Kind[Backend]:
    """Install a package with the backend `slowpoke`, and look for backends anew."""
    shutil.rmtree(folder, ignore_errors=True)
    described = folder / f"slowpoke_backend-{version}.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: slowpoke-backend\nVersion: {version}\n")
    (described / "entry_points.txt").write_text("[optinfer.backends]\nslowpoke = slowpoke_backend\n")
    (folder / "slowpoke_backend.py").write_text(code)
    importlib.invalidate_caches()
    return Kind("backend", "backends", BACKENDS.room, Backend)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site"


def test_another_version_is_other_code_and_so_is_an_edited_one(folder: Path) -> None:
    first = install(folder, "backend = 1").provenance("slowpoke")
    assert list(first) == ["slowpoke-backend"]
    assert install(folder, "backend = 1").provenance("slowpoke") == first
    assert install(folder, "backend = 2").provenance("slowpoke") != first
    assert install(folder, "backend = 1", version="2").provenance("slowpoke") != first


def test_our_own_are_identified_by_what_they_require() -> None:
    assert [BACKENDS.provenance(name) for name in ("onnxruntime", "torch")] == [{}, {}]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def broken(:", "SyntaxError"),
        ("import nosuchlib", "No module named 'nosuchlib'"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_one_that_cannot_be_imported_is_named_with_its_package(folder: Path, code: str, reason: str) -> None:
    broken = install(folder, code)
    with pytest.raises(
        ConfigError, match=rf"backend slowpoke \(slowpoke_backend of slowpoke-backend\).*{reason}.*mend or"
    ):
        broken.get("slowpoke")


class TestResume:
    BOUND = Bound(variant="slow", artifact="a", backend="slowpoke", device="cpu", runtime={"onnx": "1", "p": "1 (ab)"})

    def test_rows_of_another_plugins_code_are_not_mixed_in(self) -> None:
        edited = Bound(
            variant="slow", artifact="a", backend="slowpoke", device="cpu", runtime={"onnx": "1", "p": "1 (cd)"}
        )
        assert self.BOUND.agrees(self.BOUND)
        assert not self.BOUND.agrees(edited)

    def test_an_output_of_a_version_that_named_less_is_resumed(self) -> None:
        before = Bound(variant="slow", artifact="a", backend="slowpoke", device="cpu", runtime={"onnx": "1"})
        assert before.agrees(self.BOUND)

    def test_a_pool_more_is_another_output(self) -> None:
        more = Bound(variant="slow", artifact="a", backend="slowpoke", device="cpu", beside=self.BOUND)
        assert not more.agrees(self.BOUND)
        assert more.agrees(more)


# What a job of a model of numbers meets, in a process that finds the package `slowpoke-backend`.
SCORES = """
import sys
from pathlib import Path
from optinfer.inference.replica import Replica, ReplicaSettings
from tests.conftest import located
from tests.inference.test_canaries import TABLE, tensor_model

tensor_model(Path(sys.argv[1]))
model = located(Path(sys.argv[1], "model.onnx"), family="tensor")
settings = ReplicaSettings(family="tensor", model=model, backend="slowpoke", artifact=model, variant="slow")
try:
    Replica(settings).score(TABLE)
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""
BACKEND = """
from optinfer.backends import Backend, Session
class Slowpoke(Session):
    def __call__(self, inputs): {answers}
    def executed(self): return {{}}
def load(artifact, execution, load_module): {loads}
backend = Backend(formats=("onnx",), max_batch_tokens={{"cpu": 4096}}, load=load)
"""


@pytest.mark.parametrize(
    ("loads", "answers", "said"),
    [
        (
            "raise KeyError('weights')",
            "pass",
            "LoadError: the backend slowpoke of slowpoke-backend 1 (…) cannot load the artifact: KeyError: 'weights'; "
            "that is its own code",
        ),
        (
            "return Slowpoke()",
            "return list(inputs.values())",
            "NoVariantError: the backend slowpoke answered a list, not arrays by the names of the model's outputs; see "
            "'How to add a backend'",
        ),
    ],
    ids=["raises", "answers a list"],
)
def test_a_fault_of_its_own_code_is_said_to_be_one(
    folder: Path, tmp_path: Path, loads: str, answers: str, said: str
) -> None:
    install(folder, BACKEND.format(loads=loads, answers=answers))
    found = subprocess.run(
        [sys.executable, "-c", SCORES, str(tmp_path / "model")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert re.sub(r"\([0-9a-f]{12}\)", "(…)", found.stdout).startswith(said), found.stdout + found.stderr
