"""Jobs on real Ray clusters, one scenario after another in a process of its own (see test_cluster.py).

Usage: python -m tests.execution.scenarios FOLDER SUITE; prints one JSON object a line: {"scenario", and what came of
it}, or {"scenario", "error"}.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import optinfer
from optinfer.commands import resolved
from optinfer.commands.tune import tune
from optinfer.data.sinks.parquet import FOOTER_KEY
from optinfer.errors import OptinferError
from optinfer.execution import grounds, ray_cluster
from optinfer.execution.on_ray import OnRay
from optinfer.job_file import parse_job
from optinfer.optimization.trial import HERE
from optinfer.optimization.variants import VARIANTS, Step, Variant
from optinfer.records.tuning import NodeSpeed
from optinfer.system import home
from optinfer.system.machine import VNNI
from optinfer.tracking import journal
from optinfer.tuning.node_trials import Effort
from tests.conftest import REPO, everything_under, job_settings, wait_until
from tests.inference.test_canaries import NUMBERS, tensor_model
from tests.other_nodes import cpu_without, without_folders

ROWS, FRAGMENT_ROWS = 192, 16
# On a busy machine a node takes a minute to start, and longer than Ray's own 30 s.
PATIENCE = 260.0
os.environ.setdefault("RAY_raylet_start_wait_time_s", f"{PATIENCE:.0f}")
RAY = (sys.executable, "-m", "ray.scripts.scripts")
# What tells the answers of `faulty-cuda` from those of other variants.
SIGNS = {"faulty-cuda": -1}
Said = dict[str, Any]


class Suite:
    """Scenarios of one process: their folder, their table, and the variants `fake` and `faulty`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "table.parquet"
        pq.write_table(pq.read_table(REPO / "jobs" / "data" / "packages.parquet").slice(0, ROWS), self.source)
        resolved.APART = HERE
        VARIANTS["fake"] = Variant(name="fake", backend="fake", about="for tests")

    def run(self, name: str, address: str | None = None, **changes: Any) -> Said:
        """Run a job and return what a test looks at: how it ended, where its rows were scored, and what they are."""
        sink = self.folder / name
        job = parse_job(job_settings(self.source, sink, source__fragment_rows=FRAGMENT_ROWS, **changes))
        try:
            record = optinfer.run(job, address).as_dict()
        except OptinferError as error:
            return {"refused": type(error).__name__, "message": str(error)}
        wanted = (
            "run_id", "status", "variant", "taken_over", "fragments_resumed", "rows_in", "rows_out", "rows_by_node", "rows_by_variant", "placement",
        )  # fmt: skip
        return {**{key: record[key] for key in wanted}, "digest": digest(sink)}

    def faulty(self, name: str, **faults: Any) -> Meeting:
        """Make `faulty` a variant whose replicas meet in a folder of this name (see plugins/optinfer_faults.py)."""
        meeting = Meeting(self.folder / f"{name}-meeting")
        steps = (Step("fault", {"folder": str(meeting.folder), **faults}),)
        VARIANTS["faulty"] = Variant(name="faulty", steps=steps, backend="faulty", about="for tests")
        return meeting

    def mixed(self, name: str, **faults: Any) -> Meeting:
        """Make `faulty-cuda` a variant for a GPU that Ray is told of, beside `faulty`; its answers have the other sign."""
        meeting = self.faulty(name, **faults)
        steps = (Step("fault", {"folder": str(meeting.folder), "sign": SIGNS["faulty-cuda"], **faults}),)
        VARIANTS["faulty-cuda"] = Variant(
            name="faulty-cuda", steps=steps, backend="faulty", device="cuda", about="for tests"
        )
        return meeting


class Meeting:
    """Where replicas wait, each in its first call, until `release`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hold = folder / "hold"
        (folder / "calls").mkdir(parents=True)
        os.mkfifo(self._hold)
        (folder / "driver").write_text(str(os.getpid()))
        self.over = lambda: False  # tells whether the job has ended

    def wait_for(self, calls: int) -> None:
        def met() -> bool:
            assert not self.over(), "the job ended before its replicas met"
            return len(os.listdir(self.folder / "calls")) >= calls

        wait_until(met, f"{calls} calls of replicas", PATIENCE)

    def rows(self) -> int:
        """Count the rows that models were given, as they were given them."""
        return sum(int(name.partition("-")[0]) for name in os.listdir(self.folder / "calls"))

    def release(self) -> None:
        """Let those that wait go on, and nobody wait again."""
        held = os.open(self._hold, os.O_RDWR)
        (self.folder / "open").touch()
        (self.folder / "open").rename(self._hold)
        os.close(held)


def digest(sink: Path) -> str:
    """Identify the rows of an output, bit for bit and in order; each is the answer of the variant that its part names."""
    names, vectors = [], []
    for part in sorted(sink.glob("part-*.parquet")):
        table = pq.read_table(part)
        variant = json.loads(table.schema.metadata[FOOTER_KEY])["variant"]
        names += table["id"].to_pylist()
        vectors.append(table["embedding"].combine_chunks().flatten().to_numpy() * SIGNS.get(variant, 1))
    return hashlib.sha256(repr(names).encode() + np.concatenate(vectors).tobytes()).hexdigest()


def content(sink: Path) -> str:
    """Identify the rows of an output, whatever they are, each number to its last bit."""
    rows = [row for part in sorted(sink.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def beside(work: Callable[[], Said], choreography: Callable[[], None], meeting: Meeting) -> Said:
    """Do `work` in a thread and `choreography` here, as Ray's nodes want it; nobody is left waiting when that fails."""
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        meeting.over = working.done
        try:
            choreography()
        except AssertionError as error:
            if working.done():
                raise AssertionError(f"the job ended first: {working.result()}") from error
            raise
        finally:
            meeting.release()
        return working.result()


def idle(cpus: int) -> None:
    """Wait until the replicas of the job before are gone, and nodes with that many CPUs are there and no others."""
    free, total = ray.available_resources, ray.cluster_resources
    wait_until(lambda: free().get("CPU") == total().get("CPU") == cpus, f"{cpus} idle CPUs", PATIENCE)


def sizes(suite: Suite) -> dict[str, Callable[[], Said]]:
    """A Ray of its own for each scenario, so small that replicas take all of it."""

    def sized(cpus: int) -> Said:
        options = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        ray.init(address="local", num_cpus=cpus, object_store_memory=128 * 2**20, **options)
        try:
            wishes = {"replicas": cpus + 1, "threads_per_replica": 1}
            refused = suite.run(f"refused-{cpus}", placement=wishes)
            return {**suite.run(f"size-{cpus}"), "too_many": refused}
        finally:
            ray.shutdown()

    return {f"size {n}": lambda n=n: sized(n) for n in (1, 2, 3, 4)}


def own(suite: Suite) -> dict[str, Callable[[], Said]]:
    """The Ray that the job starts for itself."""

    def fallback() -> Said:
        meeting = suite.faulty("fallback")
        (meeting.folder / "refuse").touch()
        return suite.run("fallback", "local", variant="faulty", gate__fallback="fake")

    return {"fallback": fallback}


def nodes(suite: Suite) -> dict[str, Callable[[], Said]]:
    """One cluster that grows and shrinks: its nodes come and go as the scenarios say."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 128 * 2**20})
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    added: dict[str, Any] = {}

    def add(name: str, **resources: float) -> None:
        added[name] = cluster.add_node(num_cpus=1, object_store_memory=128 * 2**20, resources=resources)

    def names() -> Said:
        idle(1 + len(added))
        return {"head": cluster.head_node.node_id[:8], **{k: n.node_id[:8] for k, n in added.items()}}

    def several() -> Said:
        add("second", jetson=1)
        before, meeting = names(), suite.faulty("several", hold_after=0)
        return {
            "nodes": before,
            **beside(lambda: suite.run("several", variant="faulty"), lambda: meeting.wait_for(2), meeting),
        }

    def several_real() -> Said:
        return {"nodes": names(), **suite.run("several-real", variant="onnx-fp32", gate={"min": 0.9, "sample_rows": 8})}

    def jetson() -> Said:
        return {"nodes": names(), **suite.run("jetson", placement={"resources": {"jetson": 1}})}

    def joins() -> Said:
        names()
        meeting = suite.faulty("joins", hold_after=0)

        def choreography() -> None:
            meeting.wait_for(2)
            add("third", **{"accelerator_type:H100": 1})
            meeting.wait_for(3)

        said = beside(lambda: suite.run("joins", variant="faulty"), choreography, meeting)
        return {"nodes": names(), **said}

    def accelerator() -> Said:
        return {"nodes": names(), **suite.run("accelerator", placement={"accelerator_type": "H100"})}

    def leaves() -> Said:
        before = names()
        meeting = suite.faulty("leaves", hold_after=0)

        def choreography() -> None:
            meeting.wait_for(3)
            cluster.remove_node(added.pop("second"), allow_graceful=False)

        said = beside(lambda: suite.run("leaves", variant="faulty"), choreography, meeting)
        return {"nodes": before, **said}

    steps = (several, several_real, jetson, joins, accelerator, leaves)
    return {step.__name__: step for step in steps}


def drained(suite: Suite) -> dict[str, Callable[[], Said]]:
    """Two nodes of a replica each, of which the second is told to leave while both have a fragment at hand."""
    store = {"object_store_memory": 128 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **store})
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    head = cluster.head_node.node_id

    def told_in_mid_job(name: str, leave: Callable[[str], object], joins: bool = False) -> Said:
        """Score in micro-batches of four rows; each replica is in one when the second node is told."""
        (second,) = (node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != head)
        names, at = {"head": head[:8], "second": second[:8]}, list[float]()
        meeting = suite.faulty(name, hold_after=2)

        def choreography() -> None:
            meeting.wait_for(4)  # two are answered, and two are held
            if joins:
                names["third"] = cluster.add_node(num_cpus=1, **store).node_id[:8]
            at.append(time.time())
            leave(second)
            wait_until(lambda: second in ray_cluster.draining(), "the second node is told to leave")
            heard = time.monotonic()
            wait_until(lambda: time.monotonic() - heard > ray_cluster.ASK_SECONDS, "replicas ask again")

        job = {"batching": {"max_batch_size": 4, "dedupe": False}, "placement": {"replicas": 2}}
        said = beside(lambda: suite.run(name, variant="faulty", **job), choreography, meeting)
        return {"nodes": names, **said, "rows_given": meeting.rows(), "taken": taken_over(said["run_id"], at[0])}

    def drain(node: str) -> None:
        """Tell it as an autoscaler does that hears of a preemption."""
        how = ["--node-id", node, "--address", cluster.address, "--deadline-remaining-seconds", "120"]
        why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "the spot market"]
        subprocess.run([*RAY, "drain-node", *how, *why], check=True, capture_output=True)

    def without_room() -> Said:
        cluster.add_node(num_cpus=1, **store)
        idle(2)
        return told_in_mid_job("without_room", drain)

    def with_room() -> Said:
        """SIGTERM, as Kubernetes sends it; another node came just before."""
        idle(1)
        second = started(cluster, 1)
        idle(2)
        try:
            return told_in_mid_job("with_room", lambda node: second.terminate(), joins=True)
        finally:
            second.wait()

    return {step.__name__: step for step in (without_room, with_room)}


def taken_over(run: str, told: float) -> list[Said]:
    """Return what a run's journal tells of each fragment that others had begun, and the seconds after `told`."""
    receipts = [event for event in journal.read(home.runs() / run / journal.JOURNAL) if event["event"] == "receipt"]
    return [
        {
            **one["taken_over"],
            "node": one["node"].rpartition("/")[2],
            "rows_in": one["rows_in"],
            "after": one["committed"] - told,
        }
        for one in receipts
        if "taken_over" in one
    ]


def mixed(suite: Suite) -> dict[str, Callable[[], Said]]:
    """A node with a GPU, as far as Ray is told, with CPUs to spare, and one without."""
    store = {"object_store_memory": 128 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 1, **store})
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    second = cluster.add_node(num_cpus=2, **store)
    names = {"head": cluster.head_node.node_id[:8], "second": second.node_id[:8]}
    job = {"variant": "faulty-cuda", "placement": {"cpu_variant": "faulty", "threads_per_replica": 1}}

    def both() -> Said:
        idle(6)
        meeting = suite.mixed("both", hold_after=0)
        return {"nodes": names, **beside(lambda: suite.run("both", **job), lambda: meeting.wait_for(3), meeting)}

    def resumed() -> Said:
        idle(6)
        sink = suite.folder / "both"
        for name in ("_SUCCESS", "_manifest.json", *(f"part-{i:06d}.parquet" for i in range(0, 12, 2))):
            (sink / name).unlink()
        return {"nodes": names, **suite.run("both", **job)}

    def cpus_leave() -> Said:
        idle(6)
        meeting = suite.mixed("cpus_leave", hold_after=0)

        def choreography() -> None:
            meeting.wait_for(3)
            cluster.remove_node(second, allow_graceful=False)

        return {"nodes": names, **beside(lambda: suite.run("cpus_leave", **job), choreography, meeting)}

    return {step.__name__: step for step in (both, resumed, cpus_leave)}


def started(cluster: Cluster, cpus: int, before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Start a node by hand, behind a command that makes it another machine; return when it has joined.

    Ray gives a node up that takes longer than 30 s, as on a busy machine: it is started again.
    """
    ray_start = [*RAY, "start", f"--address={cluster.address}", "--block"]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    there = ray_cluster.alive()
    for _ in range(5):
        node = subprocess.Popen([*before, *ray_start, f"--num-cpus={cpus}"], **silent)
        wait_until(lambda node=node: node.poll() is not None or ray_cluster.alive() - there, "a node joins", PATIENCE)
        if node.poll() is None:
            return node
    raise AssertionError("no node comes up within Ray's 30 s: the machine is too busy")


def ended(*nodes: subprocess.Popen[bytes]) -> None:
    for node in nodes:
        node.terminate()
        node.wait()


def of_numbers(suite: Suite) -> dict[str, Any]:
    """Write a model of numbers and a table of them; return the settings of a job on both."""
    model = suite.folder / "model"
    tensor_model(model)
    numbers = {"id": [str(i) for i in range(len(NUMBERS))], "x": pa.array(NUMBERS.tolist(), pa.list_(pa.float32()))}
    pq.write_table(pa.table(numbers), suite.source)
    return {
        "source__columns": {"x": "x"},
        "source__fragment_rows": max(1, len(NUMBERS) // 8),
        "model": {"path": str(model / "model.onnx"), "family": "tensor"},
        "gate": {"min": 0.9, "sample_rows": 8},
        "placement": {"threads_per_replica": 1},
    }


def cpus(suite: Suite) -> dict[str, Callable[[], Said]]:
    """A head that scores nothing, a node like this machine, and one whose kernel tells of no instructions for int8."""
    store = {"object_store_memory": 128 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **store})
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    nodes = [started(cluster, cpus=2)]
    idle(2)
    nodes.append(started(cluster, 1, cpu_without(suite.folder, *VNNI)))
    settings = of_numbers(suite)

    def int8(name: str) -> Said:
        record = optinfer.run(
            parse_job(job_settings(suite.source, suite.folder / name, variant="onnx-int8-qdq", **settings))
        )
        manifest = json.loads((suite.folder / name / "_manifest.json").read_text())
        return {
            "rows_out": record.rows_out,
            "nodes": len(record.rows_by_node),
            "artifact": record.certificate.artifact,
            "warnings": manifest["warnings"],
        }

    def left_out() -> Said:
        idle(3)
        return int8("left-out")

    def theirs() -> Said:
        ended(nodes[0])
        idle(1)
        try:
            return int8("theirs")
        finally:
            ended(nodes[1])

    return {"left_out": left_out, "theirs": theirs}


def late(suite: Suite) -> dict[str, Callable[[], Said]]:
    """A node like this machine, and one that comes in mid-job, whose kernel tells of no instructions for int8."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 128 * 2**20})
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)

    def another_kind() -> Said:
        idle(1)
        meeting, nodes = suite.faulty("another-kind", hold_after=0, ran_in="int8"), list[subprocess.Popen[bytes]]()

        def choreography() -> None:
            meeting.wait_for(1)
            nodes.append(started(cluster, 1, cpu_without(suite.folder, *VNNI)))
            wait_until(lambda: ray_cluster.refused_by(b""), "its replica refuses it", PATIENCE)

        try:
            said = beside(lambda: suite.run("another-kind", variant="faulty"), choreography, meeting)
        finally:
            ended(*nodes)
        manifest = json.loads((suite.folder / "another-kind" / "_manifest.json").read_text())
        return {"nodes": {"head": cluster.head_node.node_id[:8]}, **said, "warnings": manifest["warnings"]}

    return {"another_kind": another_kind}


def elsewhere(suite: Suite) -> dict[str, Callable[[], Said]]:
    """A head that scores nothing and so proves nothing; a node that comes, and another one."""
    store = {"object_store_memory": 128 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **store})
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)

    def comes() -> Said:
        waits = threading.Event()

        def say(line: str) -> None:
            if line == "proving on the first node that is free for it":
                waits.set()

        def work() -> Said:
            job = parse_job(job_settings(suite.source, suite.folder / "comes", variant="fake"))
            return {"rows_out": optinfer.run(job, say=say).rows_out}

        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(work)
            assert waits.wait(PATIENCE)
            cluster.add_node(num_cpus=1, **store)
            return working.result()

    def dies() -> Said:
        cluster.add_node(num_cpus=1, **store)
        idle(2)
        meeting = suite.faulty("dies", die_once=True)
        (meeting.folder / "die").touch()
        found = suite.run("dies", variant="faulty")
        return {**found, "died": not (meeting.folder / "die").exists()}

    def refused() -> Said:
        idle(2)
        return suite.run("refused", variant="fake", gate={"min": 0.9, "sample_rows": 8})

    return {"comes": comes, "dies": dies, "refused": refused}


def apart(suite: Suite) -> dict[str, Callable[[], Said]]:
    """A head that scores nothing, and three nodes with disks of their own: none has its model or its home."""
    store = {"object_store_memory": 128 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **store})
    home, model = suite.folder / "home", suite.folder / "model"
    home.mkdir()
    settings = of_numbers(suite)
    os.environ["OPTINFER_HOME"] = str(home)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    others = []
    for count in (1, 2, 3):  # one after the other: their ports are chosen as they start
        others.append(started(cluster, 2, without_folders(home, model)))
        idle(2 * count)

    def travels() -> Said:
        idle(6)
        said: dict[str, Said] = {}
        for variant in ("onnx-fp32", "onnx-int8-qdq"):
            sink = suite.folder / variant
            record = optinfer.run(parse_job(job_settings(suite.source, sink, variant=variant, **settings)))
            said[variant] = {"rows_out": record.rows_out, "nodes": len(record.rows_by_node), "content": content(sink)}
        workers = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        return {"variants": said, "homes": [under(node, home) for node in workers], "own": everything_under(home)}

    def gone() -> Said:
        """The model is deleted before it travels."""
        idle(6)
        config = parse_job(job_settings(suite.source, suite.folder / "gone", variant="onnx-fp32", **settings))

        class Forgetful(OnRay):
            def stream(self, task: Any, placements: Any, todo: Any) -> Any:
                shutil.rmtree(model)
                yield from super().stream(task, placements, todo)

        try:
            optinfer.run(config, executor=Forgetful())
        except OptinferError as error:
            return {"message": str(error)}
        finally:
            ended(*others)
        return {"message": ""}

    def compared() -> Said:
        idle(6)
        config = parse_job(job_settings(suite.source, suite.folder / "compared", **settings))
        record = optinfer.optimize(config, ["onnx-fp32", "onnx-int8-qdq"], executor=OnRay())
        return {"passed": {one.variant: one.passed for one in record.candidates}, "own": everything_under(home)}

    return {"travels": travels, "compared": compared, "gone": gone}


def alike(suite: Suite) -> dict[str, Callable[[], Said]]:
    """A head that scores nothing, and nodes that are alike, each with a home of its own."""
    store = {"object_store_memory": 128 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **store})
    home = suite.folder / "home"
    home.mkdir()
    os.environ["OPTINFER_HOME"] = str(home)
    settings = of_numbers(suite)
    for name in set(VARIANTS) - {"onnx-fp32", "onnx-int8-qdq", "onnx-int8-dynamic"}:
        del VARIANTS[name]
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    asked: list[str] = []
    ask = grounds._asked

    def counted(nodes: Sequence[Any], packages: Sequence[str]) -> dict[str, Any]:
        asked.extend(node.name for node in nodes)
        return ask(nodes, packages)

    grounds._asked = counted
    others: list[subprocess.Popen[bytes]] = []

    def job(name: str, **changes: Any) -> Any:
        return parse_job(job_settings(suite.source, suite.folder / name, variant="auto", **{**settings, **changes}))

    def homes() -> list[list[str]]:
        workers = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        return [under(node, home) for node in workers]

    def nobody() -> Said:
        """No node could prove, and none is on its way."""
        lines: list[str] = []
        try:
            optinfer.run(job("nobody"), say=lines.append, executor=OnRay(patience=3.0))
        except OptinferError as error:
            return {"message": str(error), "lines": lines}
        return {"message": ""}

    def compared() -> Said:
        for count in (1, 2):  # one after the other: their ports are chosen as they start
            others.append(started(cluster, 2, without_folders(home)))
            idle(2 * count)
        lines: list[str] = []
        record = optinfer.optimize(job("compared"), say=lines.append, executor=OnRay())
        return {
            "passed": {one.variant: one.passed for one in record.candidates},
            "lines": lines,
            "proved": [len([name for name in names if name.startswith("certificates/")]) for names in homes()],
        }

    def chosen() -> Said:
        idle(4)
        asked.clear()
        lines: list[str] = []
        record = optinfer.run(job("chosen"), say=lines.append)
        return {"variant": record.variant, "rows_out": record.rows_out, "lines": lines, "asked": list(asked)}

    def tuned() -> Said:
        idle(4)
        config = job("tuned", tuning__sample_rows=64, placement={})
        effort = Effort(measure=fastest_of_int8, rounds=1)
        record = tune(config, effort=effort, executor=OnRay()).as_dict()
        idle(4)
        lines: list[str] = []
        scored = optinfer.run(config, say=lines.append)
        found = {"winner": record["winner"], "record": record["record"], "variant": scored.variant, "lines": lines}
        return {**found, "own": everything_under(home), "homes": homes()}

    def over() -> Said:
        ended(*others)
        return {}

    return {"nobody": nobody, "compared": compared, "chosen": chosen, "tuned": tuned, "over": over}


def fastest_of_int8(settings: Any, sample: pa.Table, replicas: int, *_: Any) -> NodeSpeed:
    """Stand for the replicas of a node, of which two with int8 are the fastest: what a search finds is known then."""
    rate = 100.0 * replicas + (1000.0 if settings.variant == "onnx-int8-qdq" else 0.0)
    return NodeSpeed(
        rows_per_second=rate, seconds=1.0, rows=sample.num_rows, rows_rejected=0, peak_rss_mb=100.0,
        memory_mb=100.0 * replicas, micro_batches=4, micro_batch_p50_ms=1.0, micro_batch_p99_ms=2.0,
        padding_fraction=0.0,
    )  # fmt: skip


def under(node: str, folder: Path) -> list[str]:
    """Return what a node has in a folder."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    asked = ray.remote(everything_under).options(num_cpus=0, scheduling_strategy=there)
    names: list[str] = ray.get(asked.remote(folder))
    return names


def taken(suite: Suite) -> dict[str, Callable[[], Said]]:
    """A head and two nodes of one CPU, all of which others take."""
    store = {"object_store_memory": 128 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **store})
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    for _ in range(2):
        cluster.add_node(num_cpus=1, **store)

    def stuck() -> Said:
        """Others take every CPU between the placement and the start of the replicas, and no node is on its way."""
        idle(3)

        class Late(OnRay):
            def stream(self, task: Any, placements: Any, todo: Any) -> Any:
                others = [ray.remote(num_cpus=1)(Suite).remote(suite.folder) for _ in range(3)]
                wait_until(lambda: not ray.available_resources().get("CPU"), "no CPU is free")
                try:
                    yield from super().stream(task, placements, todo)
                finally:
                    for one in others:
                        ray.kill(one)

        config = parse_job(job_settings(suite.source, suite.folder / "stuck", source__fragment_rows=FRAGMENT_ROWS))
        began = time.monotonic()
        try:
            optinfer.run(config, executor=Late(patience=5.0))
        except OptinferError as error:
            return {"message": str(error), "seconds": time.monotonic() - began}
        return {"message": ""}

    return {"stuck": stuck}


def main(folder: str, suite: str) -> None:
    suites = {
        "sizes": sizes,
        "own": own,
        "nodes": nodes,
        "drained": drained,
        "mixed": mixed,
        "cpus": cpus,
        "late": late,
        "elsewhere": elsewhere,
        "apart": apart,
        "taken": taken,
        "alike": alike,
    }
    for name, scenario in suites[suite](Suite(Path(folder))).items():
        try:
            said = scenario()
        except Exception:
            said = {"error": traceback.format_exc()}
        print(json.dumps({"scenario": name, **said}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
