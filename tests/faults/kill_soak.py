"""A job on S3 that is killed again and again, by whatever may be killed, while its store fails: what is lost, and for how long.

Real rows with ids of their own, a few of which nobody can score, go through a real model from S3 to S3 (moto's server, behind
a store that fails at a share of all requests). A first run, without faults, says what the output has to be and how long it
takes (with building and proving the variant, which no later run has to). Then the same job is killed by a seed: the command, its parent, a replica, the raylet, the GCS, or it is asked to end
(SIGTERM); half of the moments are within seconds of a start, the others when a drawn share of the parts is there. After
each end the same command is given again, until it is through. Then a reader that knows nothing of the job holds the output
against its source and against the first run: every row once, in the output or in quarantine, its bits those of the first
run, the files those that were told.

A table goes to stderr. The LAST line of stdout is ONE JSON object: {"rows", "seconds_undisturbed", "seconds", "commands",
"requests", "faults", "waits", "kills": [{"whom", "at", "code", "seconds_to_end", "seconds_left", "seconds_lost"}],
"wrong": [...], "ok"}.

Usage: python -m tests.faults.kill_soak [--rows 30000] [--kills 30] [--seed 1] [--faults 0.05] [--seconds 1800]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import boto3
import fsspec
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import yaml
from moto.server import ThreadedMotoServer

from tests.conftest import REPO, job_settings
from tests.data import flaky_store
from tests.data.flaky_store import FlakyStore

WHOM = ("command", "parent", "replica", "raylet", "gcs_server", "asked")
# What becomes of the command: 0 is that it goes on.
CODES = {"command": 1, "parent": -signal.SIGKILL, "replica": 0, "raylet": 1, "gcs_server": 1, "asked": 130}
BUCKET = "kill-soak"
FILES, FRAGMENT_ROWS = 4, 100
# One row in so many has no text.
NOTHING_TO_SCORE = 997
# A command ends, and a job goes on, within so many seconds, or it hangs.
PATIENCE = 300.0
# So much goes wrong before it is given up.
MOST_WRONG = 10
# So long after a process is there it may live, where it is killed at a start.
START_SECONDS = 5.0
# What nobody is left to end (the parent was killed) ends by itself: Ray's agents, a minute after their GCS.
FAMILY_GONE_SECONDS = 120.0


@dataclass(frozen=True)
class Kill:
    """One end to come.

    Attributes:
        whom: one of `WHOM`.
        share: of the parts that are there when it comes; 0 is at once.
        seconds: that it waits then.
    """

    whom: str
    share: float
    seconds: float


@dataclass(frozen=True)
class Killed:
    """What came of one.

    Attributes:
        at: parts that were there.
        code: how the command ended; None where it went on.
        seconds_to_end: of the command.
        seconds_left: from its end until nothing runs any more that it had started.
        seconds_lost: from the kill to the next part.
    """

    whom: str
    at: int
    code: int | None
    seconds_to_end: float | None
    seconds_left: float | None
    seconds_lost: float


def drawn(kills: int, seed: int, whom: Sequence[str] = WHOM) -> list[Kill]:
    """Draw who is killed when: as many of each kind, every second one at a start."""
    choice = random.Random(seed)
    order = [whom[at % len(whom)] for at in range(kills)]
    choice.shuffle(order)
    shares = sorted(choice.uniform(0.02, 0.9) for _ in range(kills))
    return [
        Kill(one, share if at % 2 else 0.0, choice.uniform(0, START_SECONDS))
        for at, (one, share) in enumerate(zip(order, shares, strict=True))
    ]


class Command:
    """A running `optinfer run --json` with a Ray of its own."""

    def __init__(self, job: Path, environment: dict[str, str], said: Path) -> None:
        command = [sys.executable, "-m", "optinfer", "run", str(job), "--json", "--address", "local"]
        self._out, self._err = said.with_suffix(".out"), said.with_suffix(".err")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(command, cwd=REPO, env=environment, stdout=out, stderr=err)

    @property
    def code(self) -> int | None:
        return self.process.poll()

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def family(self) -> list[psutil.Process]:
        """Return the processes that it has started, and those that these have."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def part(self, whom: str) -> psutil.Process | None:
        """Return the process to kill, None while it is not there."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.process.pid)
            others = parent.children(recursive=True)
            if whom in ("parent", "asked"):
                return parent if others else None
            if whom == "command":
                return others[0] if others else None
            return next((one for one in others if _title(one).startswith(_TITLES[whom])), None)
        return None

    def wait(self) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE)
        return self.process.poll() is not None


# How a process shows; Ray calls the actors of a pool so.
_TITLES = {"replica": "ray::MapWorker", "raylet": "raylet", "gcs_server": "gcs_server"}


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        first = (process.cmdline() or [""])[0]
        return first if first.startswith("ray::") else process.name()
    return ""


class Progress:
    """Counts the parts of an output, by a look at the store behind the faults now and then."""

    def __init__(self, endpoint: str) -> None:
        self._store = boto3.client("s3", endpoint_url=endpoint)
        self.parts = 0
        self._grew: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.25):
            pages = self._store.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="out/part-")
            parts = sum(page["KeyCount"] for page in pages)
            if parts > self.parts:
                self._grew.append(time.monotonic())
            self.parts = parts

    def seconds_until_more(self, since: float) -> float:
        """Return the seconds from a moment to the next part after it, in the end to the last look."""
        return next((grew for grew in self._grew if grew > since), time.monotonic()) - since


@dataclass
class Soak:
    """A job on a store, what happened to it, and what was wrong."""

    folder: Path
    store: FlakyStore
    behind: str
    rows: int
    faults: float
    seed: int
    most_seconds: float
    commands: list[Command] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    met: int = 0

    def __post_init__(self) -> None:
        self._choice = random.Random(self.seed + 1)
        sample = pq.read_table(REPO / "jobs" / "data" / "packages.parquet")
        texts = sample.column("text").to_pylist()
        table = pa.table(
            {
                "id": [f"r{row}" for row in range(self.rows)],
                "text": [None if row % NOTHING_TO_SCORE == 5 else texts[row % len(texts)] for row in range(self.rows)],
            }
        )
        boto3.client("s3", endpoint_url=self.behind).create_bucket(Bucket=BUCKET)
        each = -(-self.rows // FILES)
        for number in range(FILES):
            with self.files.open(f"{BUCKET}/in/{number}.parquet", "wb") as file:
                # Nothing else tells a byte that flips in a part of a file.
                pages = {"row_group_size": FRAGMENT_ROWS * 5, "write_page_checksum": True}
                pq.write_table(table.slice(number * each, each), file, **pages)

    @property
    def files(self) -> fsspec.AbstractFileSystem:
        """The store without faults, as a reader of tables sees it."""
        return fsspec.filesystem("s3", endpoint_url=self.behind, use_listings_cache=False)

    @property
    def fragments(self) -> int:
        """At least as many as there are."""
        return -(-self.rows // FRAGMENT_ROWS)

    def job(self, sink: str) -> Path:
        path = self.folder / f"{sink}.yaml"
        settings = job_settings(
            f"s3://{BUCKET}/in/",
            f"s3://{BUCKET}/{sink}",
            name=f"soak-{sink}",
            source__fragment_rows=FRAGMENT_ROWS,
            model__max_length=16,
            variant="onnx-fp32",
            gate={"min": 0.9, "sample_rows": 16},
            placement={"replicas": 2, "threads_per_replica": 1},
            sink__error_threshold=0.01,
        )
        path.write_text(yaml.safe_dump(settings))
        return path

    def start(self, sink: str, endpoint: str) -> Command:
        environment = {
            **os.environ,
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_MAX_ATTEMPTS": "1",
            "RAY_AUTH_MODE": "token",
            "OPTINFER_HOME": str(self.folder / "home"),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")])),
        }
        environment.pop("RAY_ADDRESS", None)
        command = Command(self.job(sink), environment, self.folder / f"{sink}-{len(self.commands)}")
        self.commands.append(command)
        return command

    def undisturbed(self) -> float:
        """Run the job without faults; return its seconds."""
        began, command = time.monotonic(), self.start("quiet", self.behind)
        if not command.wait() or command.code != 0:
            raise AssertionError(f"the job does not run undisturbed:\n{command.err}")
        return time.monotonic() - began

    def fail_now_and_then(self) -> None:
        """Let a share of all requests meet a fault from now on."""
        names = sorted(flaky_store.FAULTS)

        def fault(handler: flaky_store.Handler) -> bool:
            self.met += 1
            name = self._choice.choice(names)
            if name == "flipped byte" and f"/{BUCKET}/in/" in handler.path:
                return flaky_store.flipped_byte_of_pages(handler)
            return flaky_store.FAULTS[name](handler)

        self.store.meets = lambda *request: self._choice.random() < self.faults
        self.store.forever = fault

    def kill_all(self, kills: Sequence[Kill], progress: Progress) -> list[tuple[float, Killed]]:
        """Kill, and give the command again, until all is killed that was to be; return the moments, too."""
        killed, command = [], self.start("out", self.store.url)
        until = time.monotonic() + self.most_seconds
        for kill in kills:
            if time.monotonic() > until:
                break
            while (process := self._due(kill, command, progress)) is None:
                if command.code == 0:
                    return killed
                self.wrong.append(f"ended by itself with {command.code}: {command.err[-2000:]}")
                if len(self.wrong) > MOST_WRONG:
                    return killed
                command = self.start("out", self.store.url)
            family, at, when = command.family(), progress.parts, time.monotonic()
            print(f"{time.strftime('%H:%M:%S')} {at} parts: {kill.whom}, {process.pid}", file=sys.stderr, flush=True)
            process.send_signal(signal.SIGTERM if kill.whom == "asked" else signal.SIGKILL)
            if kill.whom == "replica":
                killed.append((when, Killed(kill.whom, at, None, None, None, 0.0)))
                continue
            self._require_ended(kill.whom, command)
            to_end = time.monotonic() - when
            left = self._require_gone(kill.whom, family)
            killed.append((when, Killed(kill.whom, at, command.code, to_end, left, 0.0)))
            command = self.start("out", self.store.url)
        self._finish(command)
        return killed

    def _due(self, kill: Kill, command: Command, progress: Progress) -> psutil.Process | None:
        """Wait until it is time for a kill; return the process, None where the command ended before."""
        until = time.monotonic() + PATIENCE
        while command.code is None:
            process = command.part(kill.whom)
            if process is not None and progress.parts >= kill.share * self.fragments:
                time.sleep(kill.seconds)
                if command.code is None and process.is_running():
                    return process
            if time.monotonic() > until:
                self.wrong.append(f"nothing to kill within {PATIENCE:.0f} s ({kill}): {command.err[-2000:]}")
                command.process.kill()
                command.wait()
            time.sleep(0.05)
        return None

    def _finish(self, command: Command) -> None:
        for _ in range(3):
            if not command.wait():
                self.wrong.append(f"the last command does not end: {command.err[-2000:]}")
                command.process.kill()
                command.wait()
            if command.code == 0:
                return
            self.wrong.append(f"ended by itself with {command.code}: {command.err[-2000:]}")
            command = self.start("out", self.store.url)

    def _require_ended(self, whom: str, command: Command) -> None:
        """Hold the end of a command against what docs/jobs.md says of it."""
        if not command.wait():
            self.wrong.append(f"{whom}: does not end: {command.err[-2000:]}")
            command.process.kill()
            command.wait()
            return
        if command.code != CODES[whom]:
            self.wrong.append(f"{whom}: exit code {command.code}: {command.err[-2000:]}")
        if whom == "parent":  # it goes without a word
            return
        told = [line for line in command.err.splitlines() if line.startswith("error: ") or "interrupted" in line]
        if len(told) != 1 or "the same command" not in told[0]:
            self.wrong.append(f"{whom}: said {told or command.err[-2000:]}")
        if f'"exit_code": {command.code}' not in (command.out.splitlines() or [""])[-1]:
            self.wrong.append(f"{whom}: --json said {command.out[-500:]!r}")

    def _require_gone(self, whom: str, family: list[psutil.Process]) -> float:
        """See that nothing that a command had started outlives it for long; return for how long it did."""
        began = time.monotonic()
        until = began + FAMILY_GONE_SECONDS
        while (left := [one for one in family if _lives(one)]) and time.monotonic() < until:
            time.sleep(0.2)
        if left:
            self.wrong.append(f"{whom}: {[_title(one) for one in left]} still run {FAMILY_GONE_SECONDS:.0f} s later")
        for one in left:
            with contextlib.suppress(psutil.Error):
                one.kill()
        return time.monotonic() - began

    def table(self, under: str) -> pa.Table:
        """Return the rows as pyarrow reads the folder, in the order of its files."""
        names = sorted(name for name in self.files.ls(under, detail=False) if name.endswith((".parquet", ".pq")))
        return pads.dataset(names, filesystem=self.files, format="parquet").to_table()

    def judge(self) -> None:
        """Hold the output against its source and the undisturbed one, and what commands said against their promise."""
        for command in self.commands:
            native = [line for line in command.err.splitlines() if line.startswith("[")]
            if "Traceback" in command.err or native:
                self.wrong.append(f"not for people: {native or command.err[-2000:]}")
        if not self.files.exists(f"{BUCKET}/out/_SUCCESS"):
            self.wrong.append("no _SUCCESS")
            return
        asked = self.table(f"{BUCKET}/in")["id"].to_pylist()
        without = [name for row, name in enumerate(asked) if row % NOTHING_TO_SCORE == 5]
        found, quiet = self.table(f"{BUCKET}/out"), self.table(f"{BUCKET}/quiet")
        aside = self.table(f"{BUCKET}/out/_quarantine")["id"].to_pylist()
        left_out = set(without)
        if found["id"].to_pylist() != [name for name in asked if name not in left_out]:
            self.wrong.append(f"{found.num_rows} rows are not those of the source")
        if sorted(aside) != sorted(without):
            self.wrong.append(f"quarantined: {aside}, and not {without}")
        if not found.equals(quiet):
            self.wrong.append(f"rows are not those of the undisturbed run, bit for bit: {_unlike(found, quiet)}")
        self._judge_files()

    def _judge_files(self) -> None:
        root = f"{BUCKET}/out"
        told = pq.read_table(f"{root}/_optinfer/parts.pq", filesystem=self.files).to_pylist()
        for part in told:
            data = self.files.cat_file(f"{root}/{part['part']}")
            if (part["bytes"], part["sha256"]) != (len(data), hashlib.sha256(data).hexdigest()):
                self.wrong.append(f"{part['part']} is not what parts.pq says")
        names = [name.removeprefix(f"{root}/") for name in self.files.find(root)]
        parts = sorted(name for name in names if name.startswith("part-"))
        if parts != sorted(part["part"] for part in told):
            self.wrong.append(f"parts.pq does not tell of {len(parts)} parts what is there")
        for name in ("_optinfer/lock.json", "_optinfer/ended.json"):
            if name in names:
                self.wrong.append(f"{name} is left")


def _unlike(found: pa.Table, quiet: pa.Table) -> str:
    """Say where two tables of one order differ, by how much, and first in which rows."""
    if found.schema != quiet.schema or found.num_rows != quiet.num_rows:
        return f"{found.num_rows} rows of {found.schema}, and not {quiet.num_rows} of {quiet.schema}"
    said = []
    for name in found.column_names:
        ours, theirs = found[name].to_pylist(), quiet[name].to_pylist()
        rows = [at for at, (one, other) in enumerate(zip(ours, theirs, strict=True)) if one != other]
        if rows:
            far = max(np.abs(np.subtract(ours[at], theirs[at])).max() for at in rows) if name == "embedding" else None
            said.append(f"{name} of {len(rows)} rows, by up to {far}: {found['id'].take(rows[:20]).to_pylist()} ...")
    return "; ".join(said)


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@contextlib.contextmanager
def s3() -> Iterator[tuple[str, FlakyStore]]:
    """Serve S3 on loopback, and a store in front of it that fails when it is told to."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line a request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ.update(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing", AWS_DEFAULT_REGION="us-east-1")
    try:
        with flaky_store.in_front_of(f"http://{host}:{port}") as store:
            yield f"http://{host}:{port}", store
    finally:
        server.stop()


@dataclass(frozen=True)
class Record:
    """What came of a soak."""

    rows: int
    seconds_undisturbed: float
    seconds: float
    commands: int
    requests: int
    faults: int
    waits: int
    kills: list[Killed]
    wrong: list[str]
    ok: bool


def soak(
    folder: Path, rows: int, kills: Sequence[Kill], faults: float = 0.05, seed: int = 1, most_seconds: float = math.inf
) -> Record:
    """Run all of it; after so many seconds nothing is killed any more."""
    with s3() as (behind, store):
        here = Soak(folder, store, behind, rows, faults, seed, most_seconds)
        undisturbed = here.undisturbed()
        here.fail_now_and_then()
        began = time.monotonic()
        with Progress(behind) as progress:
            killed = here.kill_all(kills, progress)
            seconds = time.monotonic() - began
            told = [replace(one, seconds_lost=progress.seconds_until_more(when)) for when, one in killed]
        if len(told) < len(kills) and seconds < most_seconds:
            here.wrong.append(f"it was through before {len(kills) - len(told)} kills")
        here.judge()
    commands = here.commands[1:]
    waits = sum(command.err.count("trying again for") for command in commands)
    return Record(
        rows, undisturbed, seconds, len(commands), len(store.asked), here.met, waits, told, here.wrong, not here.wrong
    )


def as_text(record: Record) -> str:
    """Return a record as a table, a line a kind of kill."""
    lines = [
        "| killed | times | seconds to the command's end: median, most | until nothing of it runs | to the next part |",
        "|---|---|---|---|---|",
    ]
    for whom in WHOM:
        ones = [one for one in record.kills if one.whom == whom]
        columns = [
            [one.seconds_to_end for one in ones],
            [one.seconds_left for one in ones],
            [o.seconds_lost for o in ones],
        ]
        if ones:
            lines.append(f"| {whom} | {len(ones)} | {' | '.join(map(_spread, columns))} |")
    lines.append(
        f"{record.rows:,} rows, {record.commands} commands, {record.requests:,} requests of which {record.faults:,} met a "
        f"fault ({record.waits} waits were said): {record.seconds:.0f} s, undisturbed {record.seconds_undisturbed:.0f} s"
    )
    return "\n".join([*lines, *(f"WRONG: {one}" for one in record.wrong)])


def _spread(seconds: Sequence[float | None]) -> str:
    known = [one for one in seconds if one is not None]
    return f"{statistics.median(known):.1f}, {max(known):.1f}" if known else "goes on"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=float, default=0.05)
    parser.add_argument("--seconds", type=float, default=math.inf, help="after which nothing is killed any more")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        kills = drawn(asked.kills, asked.seed)
        record = soak(Path(folder), asked.rows, kills, asked.faults, asked.seed, asked.seconds)
        print(as_text(record), file=sys.stderr)
    print(json.dumps(asdict(record)))
    sys.exit(0 if record.ok else 1)


if __name__ == "__main__":
    main()
