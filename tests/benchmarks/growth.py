"""Does a job slow down, or its driver swell, as the table grows? The same job on N and on M rows of one source.

Both are whole `optinfer run`s in fresh processes, prepared beforehand; each table has its own fragments, sample and
artifact, as in life. A source with fewer rows than asked for is repeated, each repeat's number in the texts.

Memory is the job's own account (the `finish` event of its journal): `driver_peak_rss_mb` is the peak of the process
that ran `optinfer run` (VmHWM; Ray's own processes are not in it), `replica_peak_rss_mb` that of the largest replica.
Rows differ: the larger part of a table may have longer ones, and fewer that repeat. So speed is also told in tokens that
the model saw, which do not. The LAST line of stdout is ONE JSON object: {"variant", "runs": [{"rows", "fragments",
"rows_per_second", "steady_rows_per_second", "steady_tokens_per_second", "seconds", "driver_peak_rss_mb",
"replica_peak_rss_mb"}], "steady_ratio", "steady_tokens_ratio", "driver_ratio", "replica_ratio"}; the ratios are the last
run over the first.

Usage: python tests/benchmarks/growth.py [--rows 16384 60000] [--source FILE] [--variant openvino-int8-static]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from line_up import Bench
from running import ContestantError, prepare, run_job, say, set_environment
from scoreboard import steady_rows_per_second
from tables import commits, read_texts, repeated, write_table
from throughput import DEFAULT_MODEL, DEFAULT_SOURCE, count

from optinfer.config import ModelConfig
from optinfer.errors import OptinferError
from optinfer.models import source as model_source
from optinfer.tracking import metrics


def measure(bench: Bench, variant: str) -> dict[str, Any]:
    job = bench.job(variant)
    say(f"preparing {variant} on {bench.rows:,} rows (not timed)")
    if reason := prepare(job).get("refused"):
        raise ContestantError(f"{variant} may not score: {reason}")
    done = run_job(job, bench.rows)
    record = done.record
    steady = steady_rows_per_second(commits(bench.output(variant)), record["placement"]["replicas"])
    tokens = (record["tokens_per_second"] or 0.0) * record["seconds"]
    return {
        "rows": record["rows_out"],
        "variant": record["variant"],
        "fragments": record["fragments"],
        "rows_per_second": round(record["rows_out"] / done.seconds, 2),
        "steady_rows_per_second": steady,
        "steady_tokens_per_second": round(steady * tokens / record["rows_out"], 1) if steady else None,
        "seconds": round(done.seconds, 3),
        "driver_peak_rss_mb": done.metrics[metrics.DRIVER_RSS.name],
        "replica_peak_rss_mb": done.metrics[metrics.RSS.name],
    }


def ratios(first: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the last run's steady speed and memory over the first's."""
    keys = {
        "steady_ratio": "steady_rows_per_second",
        "steady_tokens_ratio": "steady_tokens_per_second",
        "driver_ratio": "driver_peak_rss_mb",
        "replica_ratio": "replica_peak_rss_mb",
    }
    return {
        ratio: round(last[key] / first[key], 4) if first[key] and last[key] else None for ratio, key in keys.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The same job on a small and on a large table.")
    parser.add_argument("--rows", type=count, nargs="+", default=[16384, 60000], help="default: %(default)s")
    parser.add_argument("--source", default=str(DEFAULT_SOURCE), help="Parquet file or folder")
    parser.add_argument("--text-column", default="text", help="default: %(default)s")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="as a job's model.path (default: %(default)s)")
    parser.add_argument("--variant", default="openvino-int8-static", help="or auto (default: %(default)s)")
    options = parser.parse_args(arguments)
    set_environment()
    runs = []
    try:
        texts = read_texts(options.source, options.text_column, max(options.rows))
        model = Path(model_source.locate(ModelConfig(path=options.model, family="text-embedding")).path)
        for rows in options.rows:
            with tempfile.TemporaryDirectory(prefix="optinfer-growth-") as folder:
                table = Path(folder, "table.parquet")
                write_table(repeated(texts, rows), table)
                runs.append(measure(Bench(Path(folder), table, rows, table, rows, model), options.variant))
                say(json.dumps(runs[-1]))
    except (OptinferError, ContestantError) as error:
        say(f"error: {error}")
        return 1
    print(json.dumps({"variant": options.variant, "runs": runs, **ratios(runs[0], runs[-1])}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
