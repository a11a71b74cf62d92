"""A schedule run for real: what `optinfer schedule --target cron` renders, started every minute, with what goes wrong at night.

Each minute plays a night. Its rows arrive in the source folder just before its tick, which starts the crontab's own line in a
shell; the first `date` on the path says which night it is. Of the nights

    2  gets two ticks at the same moment, as from two machines with one crontab
    3  gets none: the machine was off
    4  has its program killed (SIGKILL) once rows are committed; the script tries again

and in the end all nights are caught up by the loop of docs/schedule.md, one by one. Then DuckDB, which knows nothing of
optinfer, holds each night's output against its source: every row once, none of another night.

The LAST line of stdout is ONE JSON object: {"nights": [{"night", "rows", "ticks": [{"code", "seconds"}], "caught_up": {"code",
"seconds"}, "rows_out", "distinct", "foreign", "missing"}], "killed": night, "refused": what the second tick was told, "ok"}.

Usage: python -m tests.faults.schedule_soak [--minutes 5] [--rows 300]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import psutil
import pyarrow.parquet as pq
from croniter import croniter

from tests.conftest import MODEL, REPO, wait_until

FIRST = date(2026, 1, 1)
OVERLAP, MISSED, KILLED = 2, 3, 4
KILLED_ROWS = 1600
JOB = """\
name: soak
source: {{path: "{folder}/in/{{date}}/", columns: {{text: text}}, fragment_rows: 32}}
model: {{path: "{model}", family: text-embedding}}
variant: onnx-fp32
gate: {{min: 0.9, sample_rows: 16}}
placement: {{replicas: 1}}
sink: {{path: "{folder}/out/{{date}}", columns: [id]}}
"""


@dataclass
class Tick:
    """One start of the crontab's line, in a thread of its own: cron waits for none."""

    command: str
    environment: dict[str, str]
    code: int | None = None
    seconds: float = 0.0
    said: str = ""
    process: subprocess.Popen[str] | None = None
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        began = time.monotonic()
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", self.command],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said, _ = self.process.communicate()
        self.code, self.seconds = self.process.returncode, round(time.monotonic() - began, 1)


@dataclass
class Soak:
    """A folder with source, sink, job, crontab and the home of models; `table` is what nights get their rows from."""

    folder: Path
    rows: int

    def __post_init__(self) -> None:
        self.table = pq.read_table(REPO / "jobs" / "data" / "packages.parquet")
        (self.folder / "job.yaml").write_text(JOB.format(folder=self.folder, model=MODEL))
        clock = self.folder / "bin" / "date"
        clock.parent.mkdir()
        clock.write_text('#!/bin/sh\necho "$SOAK_NIGHT"\n')
        clock.chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{clock.parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")])),
            "OPTINFER_HOME": str(self.folder / "home"),
            "OPTINFER_RETRY_SECONDS": "2",
        }

    def render(self) -> str:
        """Return the crontab's line that the command renders, as cron would read it."""
        arguments = ["--cron", "* * * * *", "--timezone", "UTC", "--target", "cron", "--out", str(self.folder / "cron")]
        command = [sys.executable, "-m", "optinfer", "schedule", str(self.folder / "job.yaml"), *arguments]
        subprocess.run(command, env=self.environment, check=True, stdout=sys.stderr)
        return (self.folder / "cron" / "optinfer-soak.crontab").read_text().splitlines()[-1].replace(r"\%", "%")

    def arrive(self, number: int) -> None:
        """Put the rows of a night into the source; no row is in two nights, so that one that strays is found."""
        rows = KILLED_ROWS if number == KILLED else self.rows
        start = (number * 997) % (len(self.table) - rows)
        night = self.table.slice(start, rows)
        ids = [f"{number}-{row}" for row in range(rows)]
        target = self.folder / "in" / name(number) / "rows.parquet"
        target.parent.mkdir(parents=True)
        pq.write_table(night.set_column(night.schema.get_field_index("id"), "id", [ids]), target)

    def tick(self, command: str, number: int) -> Tick:
        # Without the log, so that what is said can be looked at here.
        return Tick(command.partition(" >> ")[0], {**self.environment, "SOAK_NIGHT": name(number)})

    def kill_when_committed(self, tick: Tick, number: int) -> None:
        """Kill the night's program once it has committed rows, and is not through."""
        out = self.folder / "out" / name(number)

        def program() -> psutil.Process | None:  # the one that scores
            assert tick.code is None, f"night {number} was through before it could be killed"
            begun = tick.process and len(list(out.glob("part-*.parquet"))) >= 3
            for process in psutil.Process(tick.process.pid).children(recursive=True) if begun else ():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.cmdline()[1:4] == ["-m", "optinfer", "run"]:
                        return process
            return None

        wait_until(program, f"night {number} commits rows", 600).kill()
        print(f"{datetime.now(UTC):%H:%M:%S} night {number}: killed", file=sys.stderr)

    def judged(self, number: int) -> dict[str, object]:
        """Hold a night's output against its source, with a reader that knows nothing of either."""
        source, out = self.folder / "in" / name(number) / "*.parquet", self.folder / "out" / name(number) / "*.parquet"
        asked = f"""
            with s as (select id from read_parquet('{source}')), o as (select id from read_parquet('{out}'))
            select (select count(*) from s), (select count(*) from o), (select count(distinct id) from o),
                   (select count(*) from (select id from o except select id from s)),
                   (select count(*) from (select id from s except select id from o))
        """
        row = duckdb.connect().execute(asked).fetchone() or ()
        return dict(zip(("rows", "rows_out", "distinct", "foreign", "missing"), row, strict=True))


def name(number: int) -> str:
    return (FIRST + timedelta(days=number)).isoformat()


def nights(soak: Soak, line: str, minutes: int) -> dict[int, list[Tick]]:
    """Play the nights, one a minute, as cron would: a tick waits for no other."""
    *fields, command = line.split(maxsplit=5)
    times = croniter(" ".join(fields), datetime.now(UTC))
    started: dict[int, list[Tick]] = {}
    with ThreadPoolExecutor(1) as beside:
        kills = []
        for number in range(1, minutes + 1):
            moment = times.get_next(datetime)
            soak.arrive(number)
            time.sleep(max(0.0, (moment - datetime.now(UTC)).total_seconds()))
            count = {OVERLAP: 2, MISSED: 0}.get(number, 1)
            print(f"{datetime.now(UTC):%H:%M:%S} night {number} ({name(number)}): {count} ticks", file=sys.stderr)
            started[number] = [soak.tick(command, number) for _ in range(count)]
            if number == KILLED:
                kills.append(beside.submit(soak.kill_when_committed, started[number][0], number))
        for kill in kills:
            kill.result()
    for tick in (tick for ticks in started.values() for tick in ticks):
        tick.thread.join()
    return started


def caught_up(soak: Soak, number: int) -> Tick:
    tick = Tick(f"{soak.folder}/cron/optinfer-soak.sh {name(number)}", soak.environment)
    tick.thread.join()
    return tick


def told(tick: Tick) -> dict[str, object]:
    return {"code": tick.code, "seconds": tick.seconds}


def soak(folder: Path, minutes: int, rows: int) -> dict[str, object]:
    """Run all of it and return the record."""
    here = Soak(folder, rows)
    line = here.render()
    here.arrive(0)  # builds and proves the variant, which takes longer than a night
    first = here.tick(line.split(maxsplit=5)[5], 0)
    first.thread.join()
    assert first.code == 0, first.said
    ticks = nights(here, line, minutes)
    record = []
    for number in range(1, minutes + 1):
        again = caught_up(here, number)
        record.append(
            {
                "night": name(number),
                **here.judged(number),
                "ticks": list(map(told, ticks[number])),
                "caught_up": told(again),
            }
        )
    refused = [tick.said for tick in ticks.get(OVERLAP, []) if tick.code == 5]
    who = [found[0] for said in refused if (found := re.search(r"is being written by a live run \(.*?\)", said))]
    codes = {number: sorted(tick.code or 0 for tick in started) for number, started in ticks.items()}
    whole = all(n["rows"] == n["rows_out"] == n["distinct"] and not n["foreign"] and not n["missing"] for n in record)
    right = all(all(c in (0, 5) for c in found) and (0 in found or not found) for found in codes.values())
    ok = whole and right and len(who) == len(refused) and all(n["caught_up"]["code"] == 0 for n in record)  # type: ignore[index]
    return {"nights": record, "killed": name(KILLED), "refused": who, "ok": ok}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=5)
    parser.add_argument("--rows", type=int, default=300)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        record = soak(Path(folder), arguments.minutes, arguments.rows)
    print(json.dumps(record))
    sys.exit(0 if record["ok"] else 1)


if __name__ == "__main__":
    main()
