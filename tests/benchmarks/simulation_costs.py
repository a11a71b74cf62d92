"""What the parts of a job cost that grow with fragments and replicas: measured here, or given to simulation.py.

Each function measures one of them with the project's own code: Ray Data's loop with an actor that does nothing, the
driver's work on a receipt, a commit, a listing, footers and MLflow's points, on local disk and on an S3 served by moto
from this machine. Moto's S3 has no network and one Python process: its requests are counted, its times say little.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from running import say

from optinfer.data.account import Accounts
from optinfer.data.fragments import Fragment, Fragments, Plan
from optinfer.data.output import Output
from optinfer.data.reading import FragmentReader
from optinfer.execution.scorer import receipts as heard
from optinfer.execution.todo import Todo
from optinfer.records.part import Part
from optinfer.records.placement import Placement
from optinfer.records.stats import Stats
from optinfer.tracking.events import Committed, Started
from optinfer.tracking.journal import Journal
from optinfer.tracking.tally import Tally

_ROWS = 1024
_DIMENSIONS = 384


@dataclass(frozen=True)
class Costs:
    """Seconds and bytes; the defaults were measured on the machine and day that docs/scaling.md names.

    Attributes:
        block_seconds: driver, for a run of fragments to be handed out and its receipts to come back.
        block_bytes: driver memory that a run takes until the end of the job.
        receipt_seconds: driver, for one fragment's receipt: journal, tally, account.
        receipt_bytes: of the journal; `account_bytes` of an account, both for one fragment.
        begin_seconds, commit_seconds: replica, for marking a fragment and for committing it to a local disk.
        name_seconds, footer_seconds: for listing a name and for opening a part on a local disk.
        listing_seconds: for a request that lists 1,000 names in an object store.
        point_seconds, point_bytes: for one point of progress in MLflow (SQLite).
        puts, gets: requests to an object store for one fragment, without those that its size adds.
    """

    block_seconds: float = 0.0053
    block_bytes: float = 5_500
    receipt_seconds: float = 0.0004
    receipt_bytes: float = 990
    account_bytes: float = 6
    begin_seconds: float = 0.0003
    commit_seconds: float = 0.0007
    name_seconds: float = 0.8e-6
    footer_seconds: float = 0.0001
    listing_seconds: float = 0.2
    point_seconds: float = 0.005
    point_bytes: float = 530
    puts: float = 2
    gets: float = 3

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def measure(actors: int = 2) -> dict[str, float]:
    """Measure all costs here, Ray's with so many actors; `s3_` ones are of moto and not used by the simulation."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="optinfer-costs-") as folder:
        found |= _blocks(actors)
        for part in (_receipts, _commits, _points):
            found |= part(Path(folder, part.__name__))
    say(json.dumps(found))
    with _s3() as url:
        found |= {f"s3_{name}": value for name, value in _commits(url).items()}
        found |= _requests(url)
    return found


class _Answers:
    """The actor without a model: answers what a replica answers."""

    def __init__(self, task: Any) -> None:
        pass

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"receipts": json.dumps([_receipt(named["fragment"]["index"]) for named in json.loads(row["run"])])}


def _receipt(index: int) -> dict[str, Any]:
    stats = Stats(rows_in=_ROWS, rows_out=_ROWS, tokens=65_536, padded_tokens=65_900, bytes_out=1_600_000)
    for seconds in np.random.default_rng(index).lognormal(-3, 0.7, 32):
        stats.latencies.add(float(seconds))
    return {
        "part": f"part-{index:06d}.parquet",
        "made": asdict(_part(index, sha256=f"{index:064x}")),
        "stats": stats.as_dict(),
        "reasons": {},
        "replica": f"{4000 + index % 8}@node-{index % 8}/0123abcd",
        "node": f"node-{index % 8}/0123abcd",
        "load_started": 1.79e9,
        "load_seconds": 3.2,
        "committed": time.time(),
        "peak_rss_mb": 512.5,
        "max_batch_tokens": 16_384,
        "max_batch_size": 64,
    }


def _part(index: int, **more: Any) -> Part:
    return Part(fragment=index, fingerprint="f", artifact="a", variant="onnx-fp32", rows_in=_ROWS, **more)


def _plan(fragments: int) -> Plan:
    start = np.arange(fragments, dtype=np.int64) * _ROWS
    cuts = Fragments(("table.parquet",), ((),), np.zeros(fragments, dtype=np.int64), start, start + _ROWS)
    return Plan(files=(), fragments=cuts, schema=pa.schema([]))


def _blocks(actors: int, blocks: int = 3000) -> dict[str, float]:
    """Measure the loop of execution/pipeline.py with one fragment a run; all actors share the cores of this machine."""
    import ray
    import simulation_costs

    from optinfer.execution import pipeline
    from optinfer.execution.cluster import connected

    share = (os.cpu_count() or 1) / actors
    placement = Placement("cpu", actors, actors, 1, int(share * 1000) / 1000, 0.0, ())
    ray.cloudpickle.register_pickle_by_value(simulation_costs)
    with connected("local"), _instead(pipeline, "FragmentScorer", simulation_costs._Answers):
        todo = Todo(_plan(blocks), np.arange(blocks))
        marks = []
        for count, _ in enumerate(pipeline.stream(None, [placement], todo)):  # type: ignore[arg-type]
            if count in (blocks // 3, blocks - 1):
                marks.append((count, perf_counter(), psutil.Process().memory_info().rss))
    (first, began, before), (last, ended, after) = marks
    return {
        "block_seconds": (ended - began) / (last - first),
        "block_bytes": max(after - before, 0) / (last - first),
    }


def _receipts(folder: Path, receipts: int = 3000) -> dict[str, float]:
    """Measure what commands/run.py does with a receipt."""
    journal, output = Journal(folder / "journal.jsonl", time.time), Output(str(folder / "output"))
    accounts, tally = Accounts(output.folder, "0123456789abcdef"), Tally(receipts * _ROWS, 0.01)
    answers = [json.dumps([_receipt(index)]) for index in range(receipts)]
    started = perf_counter()
    for answer in answers:
        (receipt,) = heard({"receipts": answer})
        journal.write(Committed(receipt))
        accounts.add(receipt.made)
        tally.add(receipt)
        tally.check_threshold("_quarantine")
    accounts.flush()
    seconds = perf_counter() - started
    journal.close()
    written = sum(path.stat().st_size for path in Path(folder, "output").rglob("*.parquet"))
    return {
        "receipt_seconds": seconds / receipts,
        "receipt_bytes": journal.path.stat().st_size / receipts,
        "account_bytes": written / receipts,
    }


def _commits(where: Path | str, parts: int = 200) -> dict[str, float]:
    """Measure marking, committing, listing and opening small parts; their size costs more where the storage is slow."""
    output = Output(f"{where}/output")
    rows = pa.table({"id": np.arange(16), "embedding": pa.FixedSizeListArray.from_arrays(np.zeros(16 * 384), 384)})
    plan = _plan(parts)
    names = [plan.part_name(index) for index in range(parts)]
    begun = _each(parts, lambda i: output.attempts.begin(names[i], "here"))
    committed = _each(parts, lambda i: output.sink.put(names[i], _part(i), rows, None))
    listed = _each(5, lambda _: output.sink.committed())
    opened = _each(parts, lambda i: output.sink.read([names[i]], whole=False))
    return {
        "begin_seconds": begun,
        "commit_seconds": committed,
        "name_seconds": listed / parts,
        "footer_seconds": opened,
    }


def _points(folder: Path, points: int = 200) -> dict[str, float]:
    """Measure MLflow's points of progress as mlflow_tracker.py sends them, to SQLite."""
    from optinfer.tracking.mlflow_run import FedRun
    from optinfer.tracking.mlflow_store import Silence, Store
    from optinfer.tracking.points import Point

    run = FedRun(Store(f"sqlite:///{folder}/mlflow.db", "costs", Silence()))
    run.feed(0.0, Started(run_name="r", params={}, tags={}))
    file = Path(folder, "mlflow.db")
    before = file.stat().st_size
    seconds = _each(points, lambda i: run.feed(1.0 + i, Point(i, i, 1.0)))
    return {"point_seconds": seconds, "point_bytes": (file.stat().st_size - before) / points}


def _requests(url: str) -> dict[str, float]:
    """Count the requests of one fragment: read, marked, committed."""
    import s3fs

    counted: Counter[str] = Counter()
    call = s3fs.S3FileSystem._call_s3

    def counting(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        counted[method] += 1
        return call(self, method, *arguments, **options)

    output, table = Output(f"{url}/counted"), pa.table({"text": [f"{i} a text" * 100 for i in range(_ROWS)]})
    source = Output(url).folder
    with tempfile.NamedTemporaryFile() as file:
        # Larger than what Arrow reads together with the footer.
        pq.write_table(table, file.name, compression="none", use_dictionary=False)
        source.put("table.parquet", Path(file.name).read_bytes())
    with _instead(s3fs.S3FileSystem, "_call_s3", counting):
        output.attempts.begin("part-000000.parquet", "here")
        FragmentReader(["text"]).read(Fragment(0, f"{url}/table.parquet", 0, _ROWS))
        output.sink.put("part-000000.parquet", _part(0), table, None)
    puts = sum(count for method, count in counted.items() if method.startswith(("put", "list", "create")))
    return {"puts": puts, "gets": sum(counted.values()) - puts}


def _each(times: int, act: Callable[[int], object]) -> float:
    started = perf_counter()
    for index in range(times):
        act(index)
    return (perf_counter() - started) / times


@contextlib.contextmanager
def _instead(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def _s3() -> Iterator[str]:
    """Serve S3 on loopback; yield the URL of a bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
    os.environ.update(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing", AWS_DEFAULT_REGION="us-east-1")
    boto3.client("s3").create_bucket(Bucket="costs")
    try:
        yield "s3://costs"
    finally:
        server.stop()


def known(measured: dict[str, float]) -> Costs:
    """Return measured costs, with the defaults for what was not measured."""
    names = {field.name for field in fields(Costs)}
    return Costs(**{name: value for name, value in measured.items() if name in names})
