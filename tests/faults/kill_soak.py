"""A job whose processes are killed at random moments, start-up included, until it is done; then every row is looked for.

Each run of `optinfer run` is disturbed once a number of fragments, drawn at random, is committed: a SIGKILL or SIGTERM to the program, a
SIGKILL to its command, an actor, the raylet or the GCS. Where that ends it, what it said and its exit code are held against
docs/jobs.md, whether something that it had started is left is looked at, and the same command is run again. In the end
pyarrow, which knows nothing of optinfer, holds the output against the source and against the output of a job that nobody
disturbed.

The LAST line of stdout is ONE JSON object: {"rows", "rows_out", "distinct", "missing", "foreign", "differ", "kills": [{"whom",
"signal", "at", "code", "seconds"}], "runs", "seconds", "seconds_undisturbed", "wrong": what was not as documented, "ok"}.

Usage: python -m tests.faults.kill_soak [--kills 30] [--rows 30000] [--seed 1] [--source TABLE] [--out URL]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from tests.conftest import MODEL, REPO

FRAGMENT_ROWS = 50
JOB = """\
name: kill-soak
source: {{path: "{source}", columns: {{text: text}}, fragment_rows: {fragment_rows}}}
model: {{path: "{model}", family: text-embedding}}
variant: onnx-fp32
gate: {{min: 0.9, sample_rows: 16}}
placement: {{threads_per_replica: 1}}
sink: {{path: "{sink}", columns: [id]}}
"""
# Who is killed, with what, and the exit codes that this may have; None: the job goes on.
VICTIMS: dict[tuple[str, signal.Signals], int | None] = {
    ("program", signal.SIGKILL): -signal.SIGKILL,
    ("program", signal.SIGTERM): 130,
    ("command", signal.SIGKILL): 1,
    ("raylet", signal.SIGKILL): 1,
    ("gcs_server", signal.SIGKILL): 1,
    ("ray::MapWorker", signal.SIGKILL): None,
}
# How long a victim that is not there yet is waited for, and what a job had started may take to be gone.
VICTIM_SECONDS, GONE_SECONDS = 60.0, 10.0
_NATIVE = re.compile(r"^\[\d{4}-\d\d-\d\d |^Traceback |^\(raylet\)", re.MULTILINE)


@dataclass
class Soak:
    """A folder with table, jobs and the home of models; outputs are under `out`."""

    folder: Path
    out: str
    table: pa.Table
    random: random.Random
    wrong: list[str] = field(default_factory=list)
    kills: list[dict[str, object]] = field(default_factory=list)
    runs: int = 0

    def __post_init__(self) -> None:
        self.source = self.folder / "table.parquet"
        pq.write_table(self.table, self.source)
        path = os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))
        self.environment = {**os.environ, "PYTHONPATH": path, "OPTINFER_HOME": str(self.folder / "home")}

    def start(self, name: str) -> subprocess.Popen[str]:
        """Start the job whose output has this name."""
        job = self.folder / f"{name}.yaml"
        job.write_text(
            JOB.format(source=self.source, model=MODEL, sink=f"{self.out}/{name}", fragment_rows=FRAGMENT_ROWS)
        )
        self.runs += 1
        return subprocess.Popen(
            [sys.executable, "-m", "optinfer", "run", str(job), "--json", "--address", "local"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def committed(self, name: str) -> int:
        """Count the parts of an output."""
        fs, path = fsspec.core.url_to_fs(f"{self.out}/{name}", use_listings_cache=False)
        fs.invalidate_cache()
        return len(fs.glob(f"{path}/part-*.parquet"))

    def disturbed(self, name: str, moments: list[int]) -> None:
        """Run the job again and again until all of the moments (parts committed) brought their kill, and it is done."""
        left = list(moments)
        while True:
            run = Run(self.start(name))
            while left and run.goes_on():
                if self.committed(name) < left[0]:
                    run.pause.wait(0.1)
                    continue
                victim = self.random.choice(list(VICTIMS))
                run.pause.wait(self.random.uniform(0.0, 2.0))
                if run.strikes(*victim):
                    self.kills.append({"whom": victim[0], "signal": victim[1].name, "at": left.pop(0)})
                    print(json.dumps(self.kills[-1]), file=sys.stderr)
                    if VICTIMS[victim] is not None:
                        break
            code, seconds = run.ended()
            if not self.judged(run, code, seconds, struck=run.struck) and code == 0:
                if left:
                    self.wrong.append(f"the job was done before {len(left)} kills could be")
                return

    def judged(self, run: Run, code: int, seconds: float, struck: tuple[str, signal.Signals] | None) -> bool:
        """Hold the end of a run against what the docs say of it; tell whether a kill ended it."""
        expected = VICTIMS[struck] if struck else None
        if struck and expected is not None:
            self.kills[-1] |= {"code": code, "seconds": round(seconds, 1)}
        if code != (expected or 0):
            self.wrong.append(f"exit code {code} after {struck}: {run.err[-500:]}")
        if expected in (1, 130) and "the same command goes on" not in run.err and "run the same command" not in run.err:
            self.wrong.append(f"no way on is said after {struck}: {run.err[-500:]}")
        if found := _NATIVE.search(run.err):
            self.wrong.append(f"raw lines after {struck}: {run.err[found.start() :][:300]}")
        if expected in (1, 130) and (left := run.left()):
            self.wrong.append(f"{left} are left {GONE_SECONDS:g} s after {struck}")
        return expected is not None


class Run:
    """One run of the program."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.pause = process, threading.Event()
        self.struck: tuple[str, signal.Signals] | None = None
        self.err, self.out = "", ""
        self._at = time.monotonic()
        self._started: list[psutil.Process] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        self.out, self.err = self.process.communicate()

    def goes_on(self) -> bool:
        return self.process.poll() is None

    def strikes(self, whom: str, number: signal.Signals) -> bool:
        """Send a signal to one of the run's processes, once it is there; return False where the run ended before."""
        until = time.monotonic() + VICTIM_SECONDS
        while self.goes_on() and time.monotonic() < until:
            for process in self._processes(whom):
                self._started = psutil.Process(self.process.pid).children(recursive=True)
                try:
                    process.send_signal(number)
                except psutil.Error:
                    continue
                self.struck, self._at = (whom, number), time.monotonic()
                return True
            self.pause.wait(0.1)
        return False

    def _processes(self, whom: str) -> Iterator[psutil.Process]:
        try:
            program = psutil.Process(self.process.pid)
            if whom == "program":
                yield program
            elif whom == "command":
                yield from program.children()[:1]
            else:
                yield from [one for one in program.children(recursive=True) if one.name().startswith(whom[:15])]
        except psutil.Error:
            return

    def ended(self) -> tuple[int, float]:
        """Wait for the end; return the exit code and the seconds since the kill."""
        self._reader.join()
        return self.process.returncode, time.monotonic() - self._at

    def left(self) -> list[str]:
        """Name those that the run had started and that are not gone in time."""
        _, left = psutil.wait_procs(self._started, timeout=GONE_SECONDS)
        return [one.name() for one in left if one.status() != psutil.STATUS_ZOMBIE]


def read(url: str) -> pa.Table:
    fs, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    parts = sorted(fs.glob(f"{path}/part-*.parquet"))
    return pads.dataset(parts, filesystem=fs, format="parquet").to_table()


def repeated(table: pa.Table, rows: int) -> pa.Table:
    """Return so many rows of a table, or of it over and over, each with an id of its own."""
    table = pa.concat_tables([table] * -(-rows // len(table))).slice(0, rows).select(["id", "text"])
    return table.set_column(0, "id", [[f"{at}-{name}" for at, name in enumerate(table["id"].to_pylist())]])


def soak(folder: Path, out: str, source: Path, rows: int, kills: int, seed: int) -> dict[str, object]:
    """Run all of it and return the record."""
    chance = random.Random(seed)
    here = Soak(folder, out, repeated(pq.read_table(source), rows), chance)
    first = Run(here.start("undisturbed"))
    code, _ = first.ended()
    assert code == 0, first.err
    undisturbed = json.loads(first.out.splitlines()[-1])["seconds"]
    began = time.monotonic()
    fragments = -(-rows // FRAGMENT_ROWS)
    here.disturbed("killed", sorted(chance.choices(range(int(fragments * 0.9)), k=kills)))
    seconds = time.monotonic() - began
    expected, found = read(f"{out}/undisturbed"), read(f"{out}/killed")
    ids = pc.value_counts(found["id"])
    missing = set(here.table["id"].to_pylist()) - set(found["id"].to_pylist())
    record: dict[str, object] = {
        "rows": rows,
        "rows_out": len(found),
        "distinct": len(ids),
        "missing": len(missing),
        "foreign": len(set(found["id"].to_pylist()) - set(here.table["id"].to_pylist())),
        "same_values": found.equals(expected),
        "kills": here.kills,
        "runs": here.runs - 1,
        "seconds": round(seconds, 1),
        "seconds_undisturbed": undisturbed,
        "wrong": here.wrong,
    }
    whole = len(found) == len(ids) == rows and not missing and found.equals(expected)
    return {**record, "ok": whole and not here.wrong and len(here.kills) == kills}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--source", type=Path, default=REPO / "jobs" / "data" / "packages.parquet")
    parser.add_argument("--out", help="folder or URL for the outputs; s3:// is written through the usual AWS variables")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        out = given.out or f"{folder}/out"
        record = soak(Path(folder), out, given.source, given.rows, given.kills, given.seed)
    print(json.dumps(record))
    sys.exit(0 if record["ok"] else 1)


if __name__ == "__main__":
    main()
