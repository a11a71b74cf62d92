"""A cluster of a head and two workers on this machine, with token authentication on, and a job scored on it.

`make demo-cluster`, or `python cluster/local/demo.py [JOB.yaml] [options of the command]`. Each node is a `ray start`
with ports of its own, as on three machines; the head has no CPU for replicas. What was started is ended, and nothing
else: `ray stop` would end every Ray of this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

# How the job gets there: `run` is a driver here that joins the cluster, `submit` has the head start one.
COMMAND = os.environ.get("DEMO_COMMAND", "run")
JOB = "jobs/embed_packages.yaml"
HERE = "127.0.0.1"
WORKERS = 2
CPUS_PER_WORKER = max(1, (os.cpu_count() or 2) // WORKERS)
OBJECT_STORE_BYTES = 128 * 2**20
UP_SECONDS, DOWN_SECONDS, ASK_SECONDS = 180.0, 30.0, 0.5
# Sockets below it have names that the kernel limits to 107 bytes.
LONGEST_FOLDER = 40
RAY = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats")


@dataclass(frozen=True)
class Ports:
    """Where the head listens, and the agents of all three nodes."""

    gcs: int
    dashboard: int
    client: int
    agents: tuple[int, ...]


def free_ports() -> Ports:
    """Ask the kernel for ports that nobody has; all are held until the last is known, so that they differ."""
    with contextlib.ExitStack() as held:
        numbers = []
        for _ in range(4 + WORKERS):
            listener = held.enter_context(socket.socket())
            listener.bind((HERE, 0))
            numbers.append(listener.getsockname()[1])
    gcs, dashboard, client, *agents = numbers
    return Ports(gcs, dashboard, client, tuple(agents))


def nodes(folder: Path, ports: Ports) -> list[list[str]]:
    """Return the command of each node, the head's first."""
    each = [f"--node-ip-address={HERE}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
    head = ["--head", f"--port={ports.gcs}", "--num-cpus=0", "--dashboard-host=" + HERE,
            f"--dashboard-port={ports.dashboard}", f"--ray-client-server-port={ports.client}"]  # fmt: skip
    worker = [f"--address={HERE}:{ports.gcs}", f"--num-cpus={CPUS_PER_WORKER}", "--include-log-monitor=false"]
    kinds = [head] + [worker] * WORKERS
    # A folder each, as on three machines: a node unpacks what a submitted job brings over what it finds.
    return [
        [*RAY, *kind, *each, f"--dashboard-agent-listen-port={agent}", f"--temp-dir={folder}/{number}"]
        for number, (kind, agent) in enumerate(zip(kinds, ports.agents, strict=True), start=1)
    ]


@contextlib.contextmanager
def started(command: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start one node for a `with` block; end it and its descendants when that is left."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
            process.send_signal(signal.SIGTERM)
            _, alive = psutil.wait_procs(family, timeout=DOWN_SECONDS)
            for one in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        process.wait()


def ask(ports: Ports, path: str, token: str | None) -> tuple[int, bytes]:
    """Ask the head's dashboard; return the status and what it said."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://{HERE}:{ports.dashboard}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def wait_for(alive: int, ports: Ports, token: str, newest: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until so many nodes are alive, or end with what the newest one said."""
    deadline = time.monotonic() + UP_SECONDS
    while time.monotonic() < deadline and newest.poll() is None:
        status, said = ask(ports, "/api/v0/nodes", token)
        if status == 200:
            listed = json.loads(said)["data"]["result"]["result"]
            if sum(node["state"] == "ALIVE" for node in listed) == alive:
                return
        time.sleep(ASK_SECONDS)
    what = "has ended" if newest.poll() is not None else f"was not up within {UP_SECONDS:.0f} s"
    sys.exit(f"node {alive} of {1 + WORKERS} {what}; it said:\n{log.read_text()}")


def score(ports: Ports, environment: dict[str, str], arguments: Sequence[str]) -> int:
    """Score the job on the cluster; return the exit code."""
    address = f"http://{HERE}:{ports.dashboard}" if COMMAND == "submit" else f"{HERE}:{ports.gcs}"
    job = [] if arguments and not arguments[0].startswith("-") else [JOB]
    # The head has this interpreter, which need not be the `python` of its PATH.
    there = ["--python", sys.executable] if COMMAND == "submit" else []
    command = [sys.executable, "-m", "optinfer", COMMAND, *job, *arguments, *there, "--address", address]
    print("$ optinfer", *command[3:], file=sys.stderr, flush=True)
    return subprocess.run(command, env=environment).returncode


def main(arguments: Sequence[str]) -> int:
    """Start the cluster, score on it, end it."""
    where = os.environ.get("RAY_TMPDIR", "/tmp")
    # Ray's last logs may still be written while the folder goes.
    with tempfile.TemporaryDirectory(prefix="oi-", dir=where, ignore_cleanup_errors=True) as name:
        if len(name) > LONGEST_FOLDER:
            sys.exit(f"{name} is too long for the names of Ray's sockets; set RAY_TMPDIR=/tmp")
        folder, ports, token = Path(name), free_ports(), secrets.token_hex(32)
        (folder / "token").touch(mode=0o600)
        (folder / "token").write_text(token)
        environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
        # On a busy machine a node takes longer than Ray's 30 s.
        environment["RAY_raylet_start_wait_time_s"] = str(int(UP_SECONDS))
        for other in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
            environment.pop(other, None)
        with contextlib.ExitStack() as cluster:
            began = time.monotonic()
            # One after the other: nodes of one machine that start at once get in each other's way.
            for number, command in enumerate(nodes(folder, ports), start=1):
                log = folder / f"node-{number}.log"
                wait_for(number, ports, token, cluster.enter_context(started(command, environment, log)), log)
            refused, _ = ask(ports, "/api/v0/nodes", None)
            seconds = time.monotonic() - began
            print(
                f"a head and {WORKERS} workers (CPUs: {CPUS_PER_WORKER} each), up after {seconds:.1f} s;",
                f"without the token the head answers {refused}",
                file=sys.stderr,
            )
            return score(ports, environment, arguments)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main(sys.argv[1:]))
