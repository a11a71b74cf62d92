"""What happens with 1,000 replicas and 10 billion rows? A simulation of the driver, the replicas and their queue.

The table is cut by the real rule (data/source.py), dealt to replicas in the real runs (execution/pipeline.py), and every
fragment is an event: a replica works on two runs, a fragment of one and then of the other; when a run is done, the
driver takes its receipts and hands the replica the next. The driver is one server, so what it cannot keep up with makes
replicas wait. Speeds of replicas and fragments vary by chance, with a fixed seed: the same options, the same answer.

Costs are options, by default those measured for docs/scaling.md; `--measure` measures them here first. The sweep
doubles the replicas and multiplies the rows by ten until something is over its limit, and says what came first.

The LAST line of stdout is ONE JSON object: {"costs", "measured", "job", "result", "equal_runs", "breaks":
{"replicas", "rows"}}; the keys of "result" are those of `Result`; "equal_runs" is the same job with runs of one length, and each of "breaks" is the list of jobs that were tried.

Usage: python tests/benchmarks/simulation.py [--replicas 1000] [--rows 10000000000] [--measure ACTORS] [--block-seconds 0.005]
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
from running import say
from simulation_costs import Costs, known, measure

from optinfer.config import SourceConfig
from optinfer.data.fragments import Fragments, Plan, SourceFile
from optinfer.data.sources.parquet import _columns, _ranges
from optinfer.execution.todo import MOST_BLOCKS, OVERLAP, Todo

_GB = 1e9
# Amazon S3 Standard, us-east-1: dollars a request, and what one prefix takes a second at least.
_PUT_PRICE, _GET_PRICE = 0.005 / 1000, 0.0004 / 1000
_PUT_RATE = 3500
# s3fs reads and writes in pieces of this size; accounts hold 500 receipts; MLflow gets two series of points.
_PIECE_BYTES = 50 * 2**20
_RECEIPTS_AN_ACCOUNT = 500
_SERIES = 2
# A resume lists the parts twice and the marks of begun parts once.
_LISTINGS = 3
# The driver without any fragment, and what it keeps of each: columns of the plan, what is left, what is counted.
_DRIVER_BYTES, _FRAGMENT_BYTES = 0.6e9, 150

_Run = tuple[int, int, int]  # first fragment, the next one, and where the run stops
_ASKED, _ARRIVED, _SCORED = range(3)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job, and what is assumed of the cluster.

    Attributes:
        speed: rows a second of one replica, `spread` its standard deviation over replicas and fragments (a share).
        bytes_in, bytes_out: a row's, uncompressed in the needed columns and as written.
        wanted_rows: of a fragment, by family and model; `file_rows` and `group_rows` of the source's files.
        actors_per_second: how fast Ray starts actors; each then takes `load_seconds` for its model.
    """

    rows: int = 10_000_000_000
    replicas: int = 1000
    speed: float = 2000.0
    spread: float = 0.1
    bytes_in: float = 250.0
    bytes_out: float = 1550.0
    wanted_rows: int = 1024
    file_rows: int = 10_000_000
    group_rows: int = 1_000_000
    actors_per_second: float = 20.0
    load_seconds: float = 30.0
    seed: int = 7


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a job; shares are of 1, seconds are of the whole job unless said otherwise.

    Attributes:
        idle_share: of the replicas' time from when they were ready; `tail_share` of it after their last fragment,
            `waiting_share` for the driver.
        replica_bytes: rows read and written of two fragments at a time.
        mlflow_share: of the job that sending points takes (a thread of the driver).
    """

    fragments: int
    rows_a_fragment: float
    largest_fragment: int
    bytes_a_fragment: float
    runs: int
    seconds: float
    first_receipt_seconds: float
    commits_per_second: float
    driver_share: float
    idle_share: float
    tail_share: float
    waiting_share: float
    driver_bytes: float
    replica_bytes: float
    journal_bytes: float
    account_bytes: float
    mlflow_points: int
    mlflow_share: float
    mlflow_bytes: float
    listing_seconds: float
    puts: float
    gets: float
    dollars: float


# What makes a job fail or waste, and from where on: shares of time, bytes, S3's rate, seconds of patience, and those
# after which Ray Data ends a job in which nothing moves.
LIMITS = {
    "driver_share": 0.9,
    "waiting_share": 0.1,
    "tail_share": 0.1,
    "driver_bytes": 8 * _GB,
    "replica_bytes": 8 * _GB,
    "puts_per_second": _PUT_RATE,
    "listing_seconds": 120.0,
    "first_receipt_seconds": 1800.0,
    "mlflow_share": 0.5,
}


def plan(job: Job) -> Plan:
    """Cut the table as planning does, without writing it."""
    count = -(-job.rows // job.file_rows)
    rows = [min(job.file_rows, job.rows - i * job.file_rows) for i in range(count)]
    files = [SourceFile(f"s3://bucket/{i:06d}", 0, "", of_file) for i, of_file in enumerate(rows)]
    groups = (_groups(of_file, job) for of_file in rows)
    ranges = _ranges(groups, SourceConfig(path="s3://bucket"), job.rows, job.wanted_rows)
    cuts: Fragments = _columns(ranges, files, {file.path: () for file in files}, [""] * count)
    return Plan(files=(), fragments=cuts, schema=pa.schema([]))


def _groups(rows: int, job: Job) -> np.ndarray[Any, Any]:
    counts = np.diff([*range(0, rows, job.group_rows), rows])
    return np.stack([counts, counts * int(job.bytes_in)], axis=1)


@dataclass
class Trace:
    """What the events add up to, in seconds; `last` is when each replica ended its last fragment."""

    ready: np.ndarray[Any, Any]
    last: np.ndarray[Any, Any]
    busy: float = 0.0
    driver: float = 0.0
    ended: float = 0.0
    first_receipt: float = math.inf

    def shares(self) -> dict[str, float]:
        """Return the shares of the replicas' time that they did nothing, waited, or had ended before the others."""
        time = float((self.ended - self.ready).sum())
        tail = float((self.ended - self.last).sum())
        idle = time - self.busy
        shares = {"idle_share": idle, "tail_share": tail, "waiting_share": max(idle - tail, 0.0)}
        return {name: seconds / time for name, seconds in shares.items()}


def play(job: Job, costs: Costs, rows: np.ndarray[Any, Any], spans: Iterable[tuple[int, int]]) -> Trace:
    """Play a job event by event; `rows` are those of each fragment, `spans` the runs in which they are dealt."""
    chance = np.random.default_rng(job.seed)
    speeds = (job.speed * np.exp(chance.normal(0, job.spread, job.replicas))).tolist()
    work = (rows * np.exp(chance.normal(0, job.spread, len(rows)))).tolist()
    ready = np.arange(job.replicas) / job.actors_per_second + job.load_seconds
    trace, free, dealt, order = Trace(ready, ready.copy()), 0.0, iter(spans), itertools.count()
    hands: list[deque[_Run]] = [deque() for _ in range(job.replicas)]
    working = [False] * job.replicas
    nothing = (0, 0, 0)
    events = [(t, next(order), _ASKED, r, nothing) for r, t in enumerate(ready.tolist()) for _ in range(OVERLAP)]
    heapq.heapify(events)
    while events:
        now, _, what, replica, run = heapq.heappop(events)
        first, at, stop = run
        if what == _ASKED:
            span = next(dealt, None)
            effort = (stop - first) * costs.receipt_seconds + (costs.block_seconds if span else 0.0)
            trace.driver, free = trace.driver + effort, max(free, now) + effort
            if stop:
                trace.ended, trace.first_receipt = free, min(trace.first_receipt, free)
            if span:
                heapq.heappush(events, (free, next(order), _ARRIVED, replica, (span[0], span[0], span[1])))
            continue
        if what == _SCORED:
            working[replica], trace.last[replica] = False, now
            if at + 1 == stop:
                heapq.heappush(events, (now, next(order), _ASKED, replica, run))
        if what == _ARRIVED or at + 1 < stop:
            hands[replica].append((first, at + (what == _SCORED), stop))
        if hands[replica] and not working[replica]:
            first, at, stop = hands[replica].popleft()
            seconds = work[at] / speeds[replica]
            working[replica], trace.busy = True, trace.busy + seconds
            heapq.heappush(events, (now + seconds, next(order), _SCORED, replica, (first, at, stop)))
    return trace


def simulate(job: Job, costs: Costs, equal_runs: bool = False) -> Result:
    """Cut, deal and play a job; `equal_runs` deals runs of one length."""
    cut = plan(job)
    rows = cut.fragments.stop - cut.fragments.start
    spans = list(equal(len(rows)) if equal_runs else Todo(cut, np.arange(len(rows))).spans(job.replicas))
    trace = play(job, costs, rows, spans)
    count, mean, largest = len(rows), float(rows.mean()), int(rows.max())
    sends = min(int(trace.ended), count)
    return Result(
        fragments=count,
        rows_a_fragment=mean,
        largest_fragment=largest,
        bytes_a_fragment=mean * job.bytes_out,
        runs=len(spans),
        seconds=trace.ended,
        first_receipt_seconds=trace.first_receipt,
        commits_per_second=count / (trace.ended - job.load_seconds),
        driver_share=trace.driver / (trace.ended - job.load_seconds),
        **trace.shares(),
        driver_bytes=_DRIVER_BYTES + len(spans) * costs.block_bytes + count * _FRAGMENT_BYTES,
        replica_bytes=OVERLAP * largest * (job.bytes_in + 2 * job.bytes_out),
        journal_bytes=count * costs.receipt_bytes,
        account_bytes=count * costs.account_bytes,
        mlflow_points=sends * _SERIES,
        mlflow_share=sends * costs.point_seconds / trace.ended,
        mlflow_bytes=sends * costs.point_bytes,
        listing_seconds=_LISTINGS * math.ceil(count / 1000) * costs.listing_seconds,
        **requests(count, mean * job.bytes_in, mean * job.bytes_out, costs),
    )


def equal(fragments: int) -> Iterator[tuple[int, int]]:
    size = -(-fragments // MOST_BLOCKS)
    yield from ((first, min(first + size, fragments)) for first in range(0, fragments, size))


def requests(fragments: int, bytes_in: float, bytes_out: float, costs: Costs) -> dict[str, float]:
    """Return the requests to S3 of a job and one resume, and their price in dollars."""
    pieces = math.ceil(bytes_out / _PIECE_BYTES)
    # Below two pieces a part is put at once; else each piece, and a request to begin and one to end.
    puts = fragments * (costs.puts + (pieces + 1 if bytes_out >= 2 * _PIECE_BYTES else 0))
    puts += fragments / _RECEIPTS_AN_ACCOUNT + _LISTINGS * math.ceil(fragments / 1000)
    gets = fragments * (costs.gets + max(math.ceil(bytes_in / _PIECE_BYTES) - 1, 0)) + fragments / _RECEIPTS_AN_ACCOUNT
    return {"puts": puts, "gets": gets, "dollars": puts * _PUT_PRICE + gets * _GET_PRICE}


def over(result: Result) -> list[str]:
    """Name the limits that a job is over, the furthest first, with the numbers."""
    values = {**asdict(result), "puts_per_second": result.puts / result.seconds}
    shares = {name: values[name] / limit for name, limit in LIMITS.items()}
    names = sorted((name for name in shares if shares[name] > 1), key=lambda name: -shares[name])
    return [f"{name} {values[name]:,.4g} > {LIMITS[name]:,.4g}" for name in names]


def sweep(jobs: Iterable[Job], costs: Costs, until_over: bool = False) -> list[dict[str, Any]]:
    """Simulate jobs one after another, up to the first that is over a limit where asked for."""
    tried = []
    for job in jobs:
        result = simulate(job, costs)
        tried.append({"rows": job.rows, "replicas": job.replicas, "over": over(result), **asdict(result)})
        say(
            f"{job.rows:,} rows, {job.replicas:,} replicas: {result.seconds:,.0f} s; {'; '.join(over(result)) or 'fits'}"
        )
        if until_over and tried[-1]["over"]:
            break
    return tried


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Simulate a job of very many replicas and rows.")
    parser.add_argument("--measure", type=int, default=0, metavar="ACTORS", help="measure the costs here first")
    for kind in (Job, Costs):
        for field in fields(kind):
            option = f"--{field.name.replace('_', '-')}"
            parser.add_argument(option, type=type(field.default), help=f"default: {field.default:g}")
    options = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    actors = options.pop("measure")
    measured = measure(actors) if actors else {}
    job = Job(**{f.name: options[f.name] for f in fields(Job) if f.name in options})
    costs = known({**measured, **{f.name: options[f.name] for f in fields(Costs) if f.name in options}})
    result = {
        "costs": asdict(costs),
        "measured": measured,
        "job": asdict(job),
        "result": asdict(simulate(job, costs)),
        "equal_runs": asdict(simulate(job, costs, equal_runs=True)),
        "breaks": {
            "replicas": sweep((replace(job, replicas=job.replicas * 2**n) for n in range(7)), costs, until_over=True),
            "rows": sweep((replace(job, rows=int(job.rows * 10.0**n)) for n in (-3, -2, -1, 0, 1)), costs),
        },
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
